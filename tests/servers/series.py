"""Run a case with a server, and count the results."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any, Self

from django.db import transaction

from config.local.processes import PATIENCE, wait_until
from email_integration.models import Delivery, DeliveryAttempt
from email_integration.queue.submission import submit
from email_integration.sending.sessions import pool
from email_integration.signals import delivery_accepted
from tests.deliveries import attempt, send_due
from tests.integration.validating import validate
from tests.made_up import made_up_alike
from tests.tables import SERVERS

from .contents import CONTENTS, MARK, NEEDS_SMTPUTF8, hand_over_by_django, made
from .run import Case, Run, let_time_pass, nothing, unfinished, wait_for_the_next, work_off
from .server import Options, Server, without_trace


@dataclasses.dataclass(kw_only=True)
class Counts:
    """The results, counted in recipients, and the number of attempts that the server refused."""

    submitted: int
    arrived: int
    twice: int
    failed: int
    refused: int
    seconds: float
    #: A note in the row.
    note: str = ""


#: The command's output for an accepted test mail.
_SENT = "Test email sent successfully"


def carry_out(case: Case, server: Server, row: Callable[[Counts], None]) -> None:
    """Submit, send due mail while time passes, and check the arrived mail."""
    server.start(case.options)
    server.forget()
    run = Run(case, server)
    started = time.monotonic()
    case.before(run)
    case.submit()
    with Amid(case, run) as amid:
        work_off()
    if case.says:
        code, output = validate("--test-email", case.test_to)
        assert code != 0
        assert _SENT not in output
        missing = [words for words in case.says if words not in output]
        assert not missing, output
    case.fix(run)
    amid.check()
    deadline = started + 500
    for _ in range(1000 if case.real else case.rounds):
        if not unfinished().exists():
            break
        if case.real:
            wait_for_the_next(deadline)
        else:
            let_time_pass(case.pause)
        work_off()
    pool.close()
    counts = _count(server, started)
    if not (case.says or case.options.rate):
        # If a single mail does not reach the limit, or there is none.
        assert _SENT in validate("--test-email", case.test_to)[1]
    if case.options.rate:
        counts.note = f" ({_rate(case.options.rate[1]):.1f} were taken)"
    row(counts)
    _check(case, counts)


class Amid:
    """A context for sending that runs the case's action once a number of mails were accepted."""

    def __init__(self, case: Case, run: Run) -> None:
        self._case, self._run = case, run
        self._accepted = 0
        self._begun = threading.Event()
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._wait, daemon=True)

    def __enter__(self) -> Self:
        if self._case.amid is not None:
            delivery_accepted.connect(self._count)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        delivery_accepted.disconnect(self._count)

    def check(self) -> None:
        """Require that the action ran without an error."""
        if self._case.amid is not None:
            assert self._begun.is_set()
            self._thread.join(PATIENCE)
            assert not self._thread.is_alive()
            assert not self._errors, self._errors

    def _count(self, **given: object) -> None:
        self._accepted += 1
        if self._accepted == self._case.after:
            self._begun.set()
            if not self._case.by_another:
                self._thread.join(PATIENCE)

    def _wait(self) -> None:
        if self._begun.wait(PATIENCE) and self._case.amid is not None:
            try:
                self._case.amid(self._run)
            except BaseException as error:
                self._errors.append(error)


def _count(server: Server, started: float) -> Counts:
    recipients = list(itertools.chain(*Delivery.objects.values_list("recipients", flat=True)))
    server.wait_for(sum(item["status"] == "accepted" for item in recipients))
    ours = set(Delivery.objects.values_list("message_id", flat=True))
    arrived = {mail: times for mail, times in server.arrived().items() if mail[1] in ours}
    return Counts(
        submitted=len(recipients),
        arrived=len(arrived),
        twice=sum(times > 1 for times in arrived.values()),
        failed=sum(item["status"] == "failed" for item in recipients),
        refused=DeliveryAttempt.objects.exclude(outcome="accepted").count(),
        seconds=round(time.monotonic() - started, 1),
    )


def _rate(seconds: int) -> float:
    """Return how many mails the server accepted in ``seconds`` seconds, on average."""
    times = DeliveryAttempt.objects.filter(outcome="accepted").order_by("finished_at")
    taken = list(times.values_list("finished_at", flat=True))
    return len(taken) * seconds / max((taken[-1] - taken[0]).total_seconds(), 0.1)


def _check(case: Case, counts: Counts) -> None:
    others = list(
        DeliveryAttempt.objects.exclude(outcome="accepted").values_list("outcome", "phase", "code", "reply")[:5]
    )
    assert (counts.arrived, counts.failed) == (case.arrived, case.failed), others
    in_doubt = DeliveryAttempt.objects.filter(outcome="in_doubt").count()
    assert counts.twice <= in_doubt
    assert counts.refused <= case.refused, others
    assert counts.refused or case.fix is nothing
    assert counts.refused < 2 * counts.submitted


# -- contents -------------------------------------------------------------------------------------------------------


def compare(server: Server, *, extensions: bool, in_bulk: bool, row: Callable[[Counts], None]) -> None:
    """Send the contents as Django does and as we do, and compare the mail that the server relays."""
    options = Options(extensions=extensions)
    if server.options != options or not server.is_running:
        server.start(options)
    names = [name for name in CONTENTS if (extensions and server.smtputf8) or name not in NEEDS_SMTPUTF8]
    server.forget()
    for name in names:
        with made_up_alike():
            hand_over_by_django(made(name), server.port)
    expected = _passed_on(server, names)
    server.forget()
    started = time.monotonic()
    config = Run(Case(name="", submit=list, arrived=0), server).config
    assert config.is_active
    deliveries = []
    with transaction.atomic():
        for name in CONTENTS:
            with made_up_alike():
                deliveries.append(submit(made(name)))
    ids = [delivery.pk for delivery in deliveries]
    if in_bulk:
        send_due()
    else:
        for pk in ids:
            attempt(pk)
    pool.close()
    arrived = _passed_on(server, names)
    # Here all mails have the same Message-IDs, so they are counted by their marks.
    counts = Counts(
        submitted=len(ids),
        arrived=len(arrived),
        twice=sum(len(set(to)) < len(to) for _, to, _ in arrived.values()),
        failed=Delivery.objects.filter(status="failed").count(),
        refused=DeliveryAttempt.objects.exclude(outcome="accepted").count(),
        seconds=round(time.monotonic() - started, 1),
    )
    row(counts)
    assert counts.twice == 0
    for name in names:
        assert arrived[_mark(name)] == expected[_mark(name)], name
    assert counts.failed == len(CONTENTS) - len(names)
    assert counts.refused == counts.failed


def _mark(name: str) -> str:
    return name.replace(" ", "-")


def _passed_on(server: Server, names: list[str]) -> dict[str, Any]:
    """Return sender, recipients and content of each mark."""

    def all_of_them() -> bool:
        return server.is_done() and len({message.parsed[MARK] for message in server.messages()}) >= len(names)

    wait_until(all_of_them, what=f"{len(names)} contents relayed by {server.name}", seconds=60)
    found: dict[str, Any] = {}
    for message in server.messages():
        sender, recipients, contents = found.setdefault(message.parsed[MARK], (set(), [], set()))
        sender.add(message.mail_from)
        recipients.extend(message.rcpt_tos)
        contents.add(without_trace(message.content))
    return {mark: (senders, sorted(to), contents) for mark, (senders, to, contents) in found.items()}


def row_of(server: type[Server], place: int, name: str, record_property: Any) -> Callable[[Counts], None]:
    """Return a function that prints a row of the table."""

    def print_row(counts: Counts) -> None:
        values = dataclasses.asdict(counts)
        note = values.pop("note")
        record_property(SERVERS, [server.name, place, name + note, *values.values()])

    return print_row
