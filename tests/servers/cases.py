"""What is tried with each server: what it is told, what is submitted, and what must come of it."""

from __future__ import annotations

import contextlib
import dataclasses
import smtplib
import time
from collections.abc import Callable, Sequence
from typing import Any

from django.db import transaction
from django.utils import timezone

from config.local.processes import LOOPBACK, wait_until
from email_integration.models import FINAL, Delivery, RelayGate, SMTPConfig
from email_integration.sending.dispatch import pool
from email_integration.sending.group import attempt_group
from tests.deliveries import submitted

from .running import PASSWORD, USER, Options, Server

#: Whoever hangs up at one recipient is told about five.
HUNG_UP_AT = "u2@example.com"


class Run:
    """A case that is being carried out."""

    def __init__(self, case: Case, server: Server) -> None:
        self.case, self.server = case, server
        self.config = self._configuration()
        self.held: list[smtplib.SMTP] = []

    def _configuration(self) -> SMTPConfig:
        case, server = self.case, self.server
        values: dict[str, Any] = {
            "name": server.name,
            "host": "localhost",
            "port": server.tls_port if case.tls == "TLS" else server.port,
            "use_tls": case.tls == "STARTTLS",
            "use_ssl": case.tls == "TLS",
            "from_email": "Hanna <noreply@example.com>",
            "timeout": 60,
            "is_active": True,
        }
        if case.tls:
            values["ca_certificates"] = server.certificates["good"].authority.read_text()
        if case.options.login:
            values |= {"username": USER, "password": PASSWORD}
        return SMTPConfig.objects.create(**{**values, **case.config})

    def change(self, **values: Any) -> None:
        """An administrator changes the configuration."""
        for name, value in values.items():
            setattr(self.config, name, value)
        self.config.save()


def nothing(run: Run) -> None:
    pass


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """``refused`` is how many attempts the server refuses at most; the other figures are exact."""

    name: str
    options: Options = dataclasses.field(default_factory=Options)
    submit: Callable[[], list[str]]
    arrived: int
    failed: int = 0
    refused: int = 0
    #: STARTTLS, TLS or ''; and what else the configuration says.
    tls: str = ""
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    #: What is done before all, and once nothing more can be done.
    before: Callable[[Run], None] = nothing
    mend: Callable[[Run], None] = nothing
    #: What is done as soon as so many were accepted: between two mails, or by another thread while others are sent.
    amid: Callable[[Run], None] | None = None
    after: int = 0
    by_another: bool = False
    #: What ``validate_notification_setup --test-email`` says before it is mended.
    says: tuple[str, ...] = ()
    #: Seconds that the server counts by itself between two rounds.
    pause: float = 0
    #: Whether all times are real ones.
    real: bool = False
    rounds: int = 6


def each(number: int, **how: Any) -> Callable[[], list[str]]:
    """So many mails with a recipient each."""

    def submit() -> list[str]:
        with transaction.atomic():
            return [submitted(f"u{place}@example.com", **how).pk for place in range(number)]

    return submit


def one(number: int, **how: Any) -> Callable[[], list[str]]:
    """One mail to so many."""
    return lambda: [submitted(*(f"u{place}@example.com" for place in range(number)), **how).pk]


def with_a_large_one() -> list[str]:
    """Five small mails, and between them one that is too large."""
    with transaction.atomic():
        made = [submitted(f"u{place}@example.com").pk for place in range(5)]
        made.insert(2, submitted("large@example.com", body="a line of words\n" * 20_000).pk)
    return made


# -- what goes on ---------------------------------------------------------------------------------------------------


def hold_connection(run: Run) -> None:
    """Somebody else of this machine has all the connections that there may be."""

    def another() -> bool:
        try:
            run.held.append(smtplib.SMTP(LOOPBACK, run.server.port))
        except (smtplib.SMTPException, OSError):
            return False
        return True

    # Whoever looked whether the server listens may still be counted, or not yet.
    wait_until(another, what=f"a connection to {run.server.name}")
    while another():
        assert len(run.held) < 10, "there is no limit"


def let_go(run: Run) -> None:
    for held in run.held:
        with contextlib.suppress(smtplib.SMTPException):
            held.quit()
    run.held.clear()


def right_certificate(run: Run) -> None:
    run.server.start(dataclasses.replace(run.case.options, certificate="good"))


def certificate_authority(run: Run) -> None:
    run.change(ca_certificates=run.server.certificates["good"].authority.read_text())


def right_password(run: Run) -> None:
    run.change(password=PASSWORD)


def stop(run: Run) -> None:
    run.server.stop()


def resume(run: Run) -> None:
    run.server.resume()


def restart(run: Run) -> None:
    run.server.restart()


# -- the cases ------------------------------------------------------------------------------------------------------

RATE = (20, 10)


def _all(server: type[Server]) -> list[Case]:
    cases = [
        *(
            Case(
                name=f"200 mails, restart {when}",
                submit=each(200),
                arrived=200,
                refused=20,
                amid=restart,
                after=60,
                by_another=by_another,
            )
            for when, by_another in (("between two", False), ("at any moment", True))
        ),
        Case(
            name="down",
            submit=each(10),
            arrived=10,
            refused=1,
            before=stop,
            mend=resume,
            says=("Connection refused",),
        ),
    ]
    for tls in ("STARTTLS", "TLS"):
        good = Options(certificate="good")
        cases += [
            Case(name=f"{tls}, own authority", options=good, tls=tls, submit=each(10), arrived=10),
            Case(
                name=f"{tls}, unknown authority",
                options=good,
                tls=tls,
                config={"ca_certificates": ""},
                submit=each(10),
                arrived=10,
                refused=1,
                mend=certificate_authority,
                says=("certificate",),
            ),
            *(
                Case(
                    name=f"{tls}, {kind}",
                    options=Options(certificate=kind),
                    tls=tls,
                    submit=each(10),
                    arrived=10,
                    refused=1,
                    mend=right_certificate,
                    says=("certificate",),
                )
                for kind in ("wrong name", "expired")
            ),
            Case(
                name=f"{tls}, right login",
                options=Options(certificate="good", login=True),
                tls=tls,
                submit=each(10),
                arrived=10,
            ),
            Case(
                name=f"{tls}, wrong login",
                options=Options(certificate="good", login=True),
                tls=tls,
                config={"password": "wrong"},
                submit=each(10),
                arrived=10,
                refused=1,
                mend=right_password,
                says=("535",),
            ),
        ]
    return [
        *cases,
        Case(name="10 mails a session", options=Options(mails=10), submit=each(45), arrived=45),
        Case(
            name="1 connection a host",
            options=Options(connections=1),
            submit=each(10),
            arrived=10,
            refused=1,
            before=hold_connection,
            mend=let_go,
            says=("421",),
        ),
        Case(
            name="20 recipients a connection",
            options=Options(recipients_of_connection=20),
            submit=each(45),
            arrived=45,
        ),
        Case(
            name=f"{RATE[0]} mails in {RATE[1]} s",
            options=Options(rate=RATE),
            submit=each(60),
            arrived=60,
            refused=60,
            real=True,
        ),
        Case(
            name="greylisting",
            options=Options(greylist=1),
            submit=each(10),
            arrived=10,
            refused=10,
            pause=1.2,
            says=("Greylisted",),
        ),
        Case(name="25 recipients, 10 a mail", options=Options(recipients=10), submit=one(25), arrived=25, refused=2),
        Case(
            name="25 recipients, all refused",
            options=Options(recipients=10, refuses_all=True),
            submit=one(25),
            arrived=25,
            refused=2,
        ),
        Case(
            name="a hang-up at one recipient",
            options=Options(hangs_up_at=HUNG_UP_AT),
            submit=one(5),
            arrived=4,
            # Where nothing was said of this one it is tried again, after the others.
            failed=0 if server.hangs_up_silently else 1,
            refused=8 if server.hangs_up_silently else 2,
        ),
        Case(
            name="a mail too large",
            options=Options(size=100_000),
            submit=with_a_large_one,
            arrived=5,
            failed=1,
            refused=1,
        ),
    ]


def cases_of(server: type[Server]) -> list[Case]:
    """Those with nothing that the server does not know."""
    usual = Options()
    names = [field.name for field in dataclasses.fields(Options)]
    return [
        case
        for case in _all(server)
        if not any(getattr(case.options, name) != getattr(usual, name) for name in names if name in server.unknown)
    ]


# -- the way of the mails -------------------------------------------------------------------------------------------


def work_off(ids: Sequence[str]) -> None:
    """Try all that is due, and what is due at once after that, as a worker does."""
    while due := [pk for pk in ids if pk in set(_due())]:
        list(attempt_group(due))


def _due() -> Sequence[str]:
    waiting = Delivery.objects.filter(status__in=("queued", "deferred"), due_at__lte=timezone.now())
    return list(waiting.values_list("pk", flat=True))


def unfinished() -> Any:
    return Delivery.objects.exclude(status__in=FINAL)


def let_time_pass(seconds: float) -> None:
    """What waits is due now; so many seconds of it are real."""
    pool.close()
    time.sleep(seconds)
    now = timezone.now()
    RelayGate.objects.update(probe_at=now)
    unfinished().update(due_at=now, ring_after=now, rings=0, lease_until=None)


def wait_for_the_next(deadline: float) -> None:
    """Until the next one is due, by the clock."""
    first = unfinished().order_by("due_at").values_list("due_at", flat=True).first()
    assert first is not None
    seconds = max((first - timezone.now()).total_seconds(), 0.05)
    assert time.monotonic() + seconds < deadline, "it takes too long"
    time.sleep(seconds)
