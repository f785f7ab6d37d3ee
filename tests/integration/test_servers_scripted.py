"""Servers written by others, as a table: the behaviour of each, and proof that all mail arrives nevertheless.

``make servers-scripted`` prints it. A scripted server of ours plays each kind of server. The test controls the time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest
from django.db import transaction

from email_integration.models import CircuitBreaker, Delivery, DeliveryAttempt, ServerQuirks
from email_integration.sending.sessions import pool
from tests.deliveries import RecordingTaskQueue, ago, due_again, send_due, submitted
from tests.peculiar import HangUp, PeculiarServer, Peer
from tests.relays import config_for, patient_but
from tests.tables import TABLE

pytestmark = pytest.mark.django_db(transaction=True)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The result, counted in recipients, and the attempts that the server refused."""

    submitted: int
    arrived: int
    twice: int = 0
    failed: int = 0
    refused: int = 0


@dataclass(frozen=True, kw_only=True)
class Case:
    """A kind of server, the submitted mails, and the required result. ``refused`` is the highest allowed number of
    attempts.
    """

    name: str
    server: Callable[[], PeculiarServer]
    submit: Callable[[], list[str]]
    arrived: int
    failed: int = 0
    refused: int = 0
    #: Settings of the configuration.
    config: dict[str, Any] = field(default_factory=dict)
    #: How often time passes, at most.
    rounds: int = 3
    #: Further checks of the server.
    check: Callable[[PeculiarServer], None] = lambda server: None
    #: Verbs that the server does not answer. Tests should not wait long for them.
    silent: tuple[str, ...] = ()


def each(number: int, **how: Any) -> Callable[[], list[str]]:
    """Return a function that submits this many mails with one recipient each."""

    def submit() -> list[str]:
        with transaction.atomic():
            return [submitted(f"u{place}@example.com", **how).pk for place in range(number)]

    return submit


def one(*to: str, **how: Any) -> Callable[[], list[str]]:
    """Return a function that submits one mail to all of these recipients."""
    return lambda: [submitted(*to, **how).pk]


def many(number: int) -> list[str]:
    return [f"u{place}@example.com" for place in range(number)]


OWN = {"from_email": "own@example.com"}


# -- kinds of servers -----------------------------------------------------------------------------------------------


class Ahead(PeculiarServer):
    """Haraka: refuses all commands in the same write as the final dot."""

    def along_with_the_dot(self, lines: list[str]) -> list[str] | None:
        return ["503 Bad sequence of commands - pipelined after end of DATA"] * len(lines)


class AheadAndRestarted(Ahead):
    """Also closes one connection in the middle of the work."""

    def mail(self, peer: Peer, line: str) -> str:
        if sum(self.arrived.values()) == 100 and self.connections == 1:
            raise HangUp("421 restarting")
        return "250 ok"


class AheadIsLost(PeculiarServer):
    """Loses all commands in the same write as the final dot."""

    def along_with_the_dot(self, lines: list[str]) -> list[str] | None:
        return []


class AheadIsRefusedInPart(PeculiarServer):
    """Refuses the first command in the same write as the final dot, and then continues as if it had accepted it."""

    def along_with_the_dot(self, lines: list[str]) -> list[str] | None:
        return ["503 too early", *["250 ok"] * (len(lines) - 1)]


def refuses_ahead(verb: str, code: int) -> type[PeculiarServer]:
    """Return a server that refuses this verb, and all later commands, in the same write as the final dot."""

    class Refuses(PeculiarServer):
        def along_with_the_dot(self, lines: list[str]) -> list[str] | None:
            first = next(place for place, line in enumerate(lines) if line.startswith(verb))
            return ["250 ok"] * first + [f"{code} too early"] * (len(lines) - first)

    return Refuses


class FirstOfSegment(PeculiarServer):
    """Offers PIPELINING and reads only the first command of a group."""

    def heeds(self, lines: list[str]) -> list[str]:
        return lines[:1]


class LastOfSegment(PeculiarServer):
    """Offers PIPELINING and reads only the last command of a group."""

    def heeds(self, lines: list[str]) -> list[str]:
        return lines[-1:]


class StaysInTransaction(PeculiarServer):
    """Refuses one mail at its dot, and then stays in its transaction."""

    code = 500

    def dot(self, peer: Peer, content: bytes) -> str:
        return f"{self.code} no" if b"To: u3@" in content else "250 ok"

    def end_after(self, peer: Peer, reply: str) -> None:
        if reply.startswith("2"):
            self.end(peer)


class StaysInTransactionAfter554(StaysInTransaction):
    """The same after a reply code that does not indicate it."""

    code = 554


def mail_refused_once(reply: str) -> type[PeculiarServer]:
    """Return a server that gives this reply to MAIL until time has passed."""

    class Refuses(PeculiarServer):
        passed = False

        def mail(self, peer: Peer, line: str) -> str:
            return "250 ok" if self.passed else reply

        def time_passes(self) -> None:
            self.passed = True

    return Refuses


def mails_of_a_session(limit: int, reply: str) -> type[PeculiarServer]:
    class Limited(PeculiarServer):
        def mail(self, peer: Peer, line: str) -> str:
            return reply if peer.mails >= limit else "250 ok"

    return Limited


class RecipientsOfAConnection(PeculiarServer):
    """Haraka: counts recipients per connection."""

    def rcpt(self, peer: Peer, address: str) -> str:
        return "450 Too many recipient attempts" if peer.named > 20 else "250 ok"


class DropsAt(PeculiarServer):
    """Refuses one recipient and hangs up."""

    said = "550 5.1.1 no such user"

    def rcpt(self, peer: Peer, address: str) -> str:
        if address == "u2@example.com":
            raise HangUp(self.said)
        return "250 ok"


class HangsUpAt(DropsAt):
    """Hangs up without a reply."""

    said = ""


class HangsUpAtFirst(PeculiarServer):
    """Hangs up without a reply at the first recipient."""

    def rcpt(self, peer: Peer, address: str) -> str:
        if address == "u0@example.com":
            raise HangUp("")
        return "250 ok"


def recipients_of_a_transaction(limit: int, reply: str, at: str) -> type[PeculiarServer]:
    class Limited(PeculiarServer):
        def rcpt(self, peer: Peer, address: str) -> str:
            if at == "RCPT" and len(peer.recipients) >= limit:
                if reply.startswith("421"):
                    raise HangUp(reply)
                return reply
            return "250 ok"

        def data(self, peer: Peer) -> str:
            return reply if at == "DATA" and len(peer.recipients) > limit else super().data(peer)

        def dot(self, peer: Peer, content: bytes) -> str:
            return reply if at == "DOT" and len(peer.recipients) > limit else "250 ok"

    return Limited


class OnlyASCII(PeculiarServer):
    """Accepts only addresses in ASCII."""

    offers = ("PIPELINING", "8BITMIME")


def rate(limit: int, reply: str, *, counts_refused: bool = False) -> type[PeculiarServer]:
    """Return a server that accepts this many mails a minute from one host. Exim's ``strict`` also counts
    refused mails.
    """

    class Limited(PeculiarServer):
        counted = 0

        def mail(self, peer: Peer, line: str) -> str:
            with self._lock:
                refused = self.counted >= limit
                self.counted += counts_refused or not refused
            if refused and reply.startswith("421"):
                raise HangUp(reply)
            return reply if refused else "250 ok"

        def time_passes(self) -> None:
            with self._lock:
                self.counted = 0

    return Limited


def rate_at_recipients(limit: int, reply: str, *, counts_refused: bool = False) -> type[PeculiarServer]:
    """Return a server with such a limit for recipients, as a reply to RCPT: Haraka's ``rate_rcpt_sender``."""

    class Limited(PeculiarServer):
        counted = 0

        def rcpt(self, peer: Peer, address: str) -> str:
            with self._lock:
                refused = self.counted >= limit
                self.counted += counts_refused or not refused
            return reply if refused else "250 ok"

        def time_passes(self) -> None:
            with self._lock:
                self.counted = 0

    return Limited


class LimitsOneRecipient(PeculiarServer):
    """Defers one recipient with a text that could concern all recipients, until time has passed."""

    passed = False

    def rcpt(self, peer: Peer, address: str) -> str:
        return "250 ok" if self.passed or address != "busy@example.com" else "450 rate limit exceeded"

    def time_passes(self) -> None:
        self.passed = True


def refuses_all(reply: str, at: str) -> type[PeculiarServer]:
    """Return a server that gives this reply to all mail at this verb, until time has passed."""

    class Refuses(PeculiarServer):
        passed = False
        offers = (*PeculiarServer.offers, "AUTH PLAIN")

        def _or(self, verb: str, usual: str) -> str:
            return usual if self.passed or at != verb else reply

        def mail(self, peer: Peer, line: str) -> str:
            return self._or("MAIL", "250 ok")

        def rcpt(self, peer: Peer, address: str) -> str:
            return self._or("RCPT", "250 ok")

        def dot(self, peer: Peer, content: bytes) -> str:
            return self._or("DOT", "250 ok")

        def other(self, peer: Peer, line: str) -> str:
            return self._or("AUTH", "235 welcome") if line.startswith("AUTH") else super().other(peer, line)

        def time_passes(self) -> None:
            self.passed = True

    return Refuses


def ways_in(**replies: str) -> type[PeculiarServer]:
    """Return a server that offers these login mechanisms with these replies. With 334 it asks for more, and then
    accepts.
    """

    class Guarded(PeculiarServer):
        offers = (*PeculiarServer.offers, " ".join(["AUTH", *(name.replace("_", "-") for name in replies)]))

        def other(self, peer: Peer, line: str) -> str:
            verb, *rest = line.split()
            if verb == "AUTH":
                reply = replies[rest[0].replace("-", "_")]
                self.asks = {"334": 1 + (rest[0] == "LOGIN")}.get(reply, 0)
                return "334 Y2hhbGxlbmdl" if self.asks else reply
            if verb.upper() in ("EHLO", "QUIT", "RSET"):
                return super().other(peer, line)
            self.asks -= 1
            return "334 " if self.asks else "235 welcome"

    return Guarded


class GreetsWithoutABlank(PeculiarServer):
    """Has no space between the code and the text of its greeting."""

    def greeting(self, peer: Peer) -> str:
        return "220ready"


def acceptance(reply: str) -> type[PeculiarServer]:
    class Says(PeculiarServer):
        def dot(self, peer: Peer, content: bytes) -> str:
            return reply

    return Says


# -- cases ----------------------------------------------------------------------------------------------------------


def no_mail_was_put_off(server: PeculiarServer) -> None:
    assert not CircuitBreaker.objects.exists()


def learned(**what: Any) -> Callable[[PeculiarServer], None]:
    def check(server: PeculiarServer) -> None:
        assert ServerQuirks.objects.filter(**what).exists(), list(ServerQuirks.objects.values())

    return check


def learned_nothing(server: PeculiarServer) -> None:
    assert not ServerQuirks.objects.exists()


def asked_at_most(rcpts: int) -> Callable[[PeculiarServer], None]:
    def check(server: PeculiarServer) -> None:
        assert server.verbs["RCPT"] <= rcpts

    return check


def logged_in_by(*tries: str) -> Callable[[PeculiarServer], None]:
    def check(server: PeculiarServer) -> None:
        assert server.tried == list(tries)

    return check


LOGIN = {"username": "user", "password": "password"}

CASES = [
    # A reply counts against a mail only if it clearly belongs to that mail.
    Case(
        name="503 to all commands sent ahead",
        server=Ahead,
        submit=each(100, **OWN),
        arrived=100,
        check=learned(pipelining="groups"),
    ),
    Case(name="503 to all commands sent ahead, configuration's sender", server=Ahead, submit=each(100), arrived=100),
    Case(
        name="503 to all commands sent ahead, restart", server=AheadAndRestarted, submit=each(200, **OWN), arrived=200
    ),
    Case(name="ignores commands sent ahead", server=AheadIsLost, submit=each(20, **OWN), arrived=20, silent=("GROUP",)),
    Case(name="refuses the first command sent ahead", server=AheadIsRefusedInPart, submit=each(20, **OWN), arrived=20),
    *(
        Case(name=f"{code} to {verb} sent ahead", server=refuses_ahead(verb, code), submit=each(20, **OWN), arrived=20)
        for verb in ("MAIL", "RCPT", "DATA")
        for code in (500, 503, 550, 554)
    ),
    Case(name="451 to DATA sent ahead", server=refuses_ahead("DATA", 451), submit=each(20, **OWN), arrived=20),
    Case(
        name="reads the first command of a segment",
        server=FirstOfSegment,
        submit=each(20),
        arrived=20,
        silent=("GROUP",),
        check=learned(pipelining="none"),
    ),
    Case(
        name="reads the last command of a segment",
        server=LastOfSegment,
        submit=each(20),
        arrived=20,
        check=learned(pipelining="none"),
    ),
    Case(name="pipelining off", server=FirstOfSegment, submit=each(20), arrived=20, config={"pipelining": "off"}),
    Case(
        name="500 at the dot, transaction stays open",
        server=StaysInTransaction,
        submit=each(10),
        arrived=9,
        failed=1,
        refused=1,
    ),
    Case(
        name="554 at the dot, transaction stays open",
        server=StaysInTransactionAfter554,
        submit=each(10),
        arrived=9,
        failed=1,
        refused=1,
    ),
    *(
        Case(
            name=f"{code} to MAIL for a while",
            server=mail_refused_once(f"{code} what?"),
            submit=each(3, **how),
            arrived=3,
            refused=3,
        )
        for code in (500, 501, 502, 503, 504)
        for how in ({}, OWN)
    ),
    # A session limit ends only the session.
    Case(
        name="OpenSMTPD max-mails 10",
        server=mails_of_a_session(10, "452 4.5.3 Too many recipients: Too many messages sent"),
        submit=each(90),
        arrived=90,
        check=learned(mails=10),
    ),
    Case(
        name="450 after 10 mails",
        server=mails_of_a_session(10, "450 4.7.1 Too many messages in this session"),
        submit=each(90),
        arrived=90,
    ),
    Case(name="451 after 7 mails", server=mails_of_a_session(7, "451 4.3.0 come again"), submit=each(30), arrived=30),
    Case(name="450 after 20 recipients", server=RecipientsOfAConnection, submit=each(90), arrived=90),
    # One recipient must not delay the others.
    Case(name="550 and a hang-up at one recipient", server=DropsAt, submit=one(*many(5)), arrived=4, failed=1),
    Case(name="a hang-up at one recipient", server=HangsUpAt, submit=one(*many(5)), arrived=4, refused=20),
    Case(name="a hang-up at the first recipient", server=HangsUpAtFirst, submit=one(*many(5)), arrived=4, refused=20),
    Case(
        name="421 at the 11th recipient",
        server=recipients_of_a_transaction(10, "421 4.7.0 too many", "RCPT"),
        submit=one(*many(25)),
        arrived=25,
    ),
    Case(
        name="554 at DATA to more than 10 recipients",
        server=recipients_of_a_transaction(10, "554 Too many recipients", "DATA"),
        submit=one(*many(25)),
        arrived=25,
        refused=2,
    ),
    Case(
        name="554 at the dot to more than 10 recipients",
        server=recipients_of_a_transaction(10, "554 5.5.3 Too many recipients", "DOT"),
        submit=one(*many(25)),
        arrived=25,
        refused=2,
    ),
    Case(
        name="452 at the 101st of 2,000 recipients",
        server=recipients_of_a_transaction(100, "452 4.5.3 Too many recipients", "RCPT"),
        submit=one(*many(2000)),
        arrived=2000,
        check=asked_at_most(2200),
    ),
    Case(
        name="at most 10 recipients by the configuration",
        server=recipients_of_a_transaction(10, "554 Too many recipients", "DOT"),
        submit=one(*many(25)),
        arrived=25,
        config={"max_recipients": 10},
        check=asked_at_most(25),
    ),
    Case(
        name="no SMTPUTF8",
        server=OnlyASCII,
        submit=one("kim@example.com", "bü@example.com", "lee@example.com"),
        arrived=2,
        failed=1,
    ),
    # Back-pressure.
    *(
        Case(
            name=f"20 mails a minute: {reply[:3]}{', counts refusals' if strict else ''}",
            server=rate(20, reply, counts_refused=strict),
            submit=each(60),
            arrived=60,
            refused=10,
            rounds=10,
        )
        for reply in (
            "450 4.7.1 Rate limit exceeded, try again later",
            "451 Sender rate overlimit",
            "452 4.2.2 too many messages per minute",
            "421 4.7.0 Too many messages",
        )
        for strict in (False, True)
    ),
    *(
        Case(
            name=f"20 recipients a minute{', counts refusals' if strict else ''}",
            server=rate_at_recipients(20, "450 rcpt rate limit exceeded", counts_refused=strict),
            submit=each(60),
            arrived=60,
            refused=12,
            rounds=10,
        )
        for strict in (False, True)
    ),
    Case(
        name="a limit for one recipient",
        server=LimitsOneRecipient,
        submit=lambda: [*[submitted("busy@example.com").pk for _ in range(5)], *each(5)()],
        arrived=6,
        refused=5,
        check=no_mail_was_put_off,
    ),
    # Refusals of the whole account: the server is at fault, one mail discovers it, and no mail fails.
    *(
        Case(
            name=f"{reply[:30]} at {at}",
            server=refuses_all(reply, at),
            submit=each(10, **OWN),
            arrived=10,
            refused=1,
            config={"username": "user", "password": "password"} if at == "AUTH" else {},
        )
        for reply, at in (
            ("550 5.7.708 Service unavailable. Access denied, traffic not accepted from this IP", "DOT"),
            ("550 5.7.705 Access denied, tenant has exceeded threshold", "RCPT"),
            ("554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException", "DOT"),
            ("554 5.2.2 mailbox full; STOREDRV.Submission.Exception:QuotaExceededException", "DOT"),
            ("450 4.2.1 Peak SMTP relay limit exceeded for customer", "RCPT"),
            ("450 4.2.1 Peak SMTP relay limit exceeded for customer", "MAIL"),
            ("502 5.7.0 Please authenticate first", "MAIL"),
            ("535 5.7.0 The email limit is reached", "AUTH"),
        )
    ),
    # A sender that the account may not use. If it is the configuration's sender, the server is at fault; if it is the
    # mail's own sender, the mail is.
    *(
        Case(
            name=f"{reply[:20]} at {at}, {whose} sender",
            server=refuses_all(reply, at),
            submit=each(10, **how),
            arrived=10,
            refused=refused,
        )
        for reply, at in (
            ("553 Relaying disallowed as noreply@example.com", "MAIL"),
            ("553 Relaying disallowed as noreply@example.com", "RCPT"),
            ("554 5.2.252 SendAsDenied; u@example.com not allowed to send as noreply@example.com", "DOT"),
        )
        for whose, how, refused in (("configuration's", {}, 1), ("own", OWN, 10))
    ),
    # Logging in.
    *(
        Case(name=name, server=server, submit=each(3), arrived=3, config=config, check=logged_in_by(*tries))
        for name, server, config, tries in (
            ("504 to PLAIN", ways_in(PLAIN="504 no", LOGIN="334"), LOGIN, ["PLAIN", "LOGIN"]),
            ("534 to CRAM-MD5", ways_in(CRAM_MD5="534 weak", PLAIN="235 ok"), LOGIN, ["CRAM-MD5", "PLAIN"]),
            ("535 to CRAM-MD5", ways_in(CRAM_MD5="535 no", PLAIN="235 ok"), LOGIN, ["CRAM-MD5", "PLAIN"]),
            (
                "503 to PLAIN, already logged in",
                ways_in(PLAIN="503 already authenticated", LOGIN="334"),
                LOGIN,
                ["PLAIN"],
            ),
            ("no password configured", ways_in(PLAIN="535 no"), {"username": "user"}, []),
        )
    ),
    # Only the code of a reply counts.
    Case(name="greets with '220ready'", server=GreetsWithoutABlank, submit=each(3), arrived=3),
    *(
        Case(name=f"accepted by {reply!r}", server=acceptance(reply), submit=each(3), arrived=3)
        for reply in ("250ok queued", "250\tok", "250", "250.", "2500")
    ),
]


@pytest.fixture(autouse=True)
def _task_queue(task_queue: RecordingTaskQueue, settings: Any) -> None:
    settings.EMAIL_INTEGRATION = {
        **settings.EMAIL_INTEGRATION,
        "RETRY_FIRST": 60.0,
        "BREAKER_PROBE_FIRST": 60.0,
        "SESSIONS": 1,
    }


def carry_out(case: Case, server: PeculiarServer) -> Counts:
    """Submit, attempt all due mail while time passes, and return the counts."""
    config_for(server, timeout=1 if case.silent else 60, **case.config)
    case.submit()
    for _ in range(case.rounds):
        send_due()
        if not Delivery.objects.filter(status="deferred").exists():
            break
        CircuitBreaker.objects.update(probe_at=ago(1))
        due_again()
        server.time_passes()
    pool.close()
    recipients = list(itertools.chain(*Delivery.objects.values_list("recipients", flat=True)))
    return Counts(
        submitted=len(recipients),
        arrived=len({address for address, _ in server.arrived}),
        twice=sum(times > 1 for times in server.arrived.values()),
        failed=sum(item["status"] == "failed" for item in recipients),
        refused=DeliveryAttempt.objects.exclude(outcome="accepted").count(),
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_all_mail_arrives(case: Case, monkeypatch: pytest.MonkeyPatch, record_property: Any) -> None:
    if case.silent:
        patient_but(monkeypatch, *case.silent)
    with case.server() as server:
        counts = carry_out(case, server)
        record_property(TABLE, [CASES.index(case), case.name, *asdict(counts).values()])
        assert counts.arrived == case.arrived
        assert counts.twice == 0
        assert counts.failed == case.failed
        assert counts.refused <= case.refused
        case.check(server)
