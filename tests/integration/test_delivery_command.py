"""``manage.py delivery``: its decisions, its output, and the data that it does not show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command, load_command_class
from django.utils import timezone, translation

from email_integration.management.printing import PrintingCommand
from email_integration.models import Delivery, DeliveryAttempt, Status
from tests.claims import claimed
from tests.deliveries import RecordingTaskQueue, pretend, submitted

pytestmark = pytest.mark.django_db

KIM = "kim@example.com"


@pytest.fixture(autouse=True)
def _task_queue(task_queue: RecordingTaskQueue) -> None:
    pass


def run(*arguments: str) -> tuple[int, str]:
    """Return the exit code and the output."""
    out = StringIO()
    try:
        call_command("delivery", *arguments, stdout=out)
    except SystemExit as ended:
        return int(ended.code or 0), out.getvalue()
    return 0, out.getvalue()


@pytest.mark.parametrize(
    ("what", "before", "said", "after"),
    [
        ("cancel", Status.QUEUED, "cancelled", Status.CANCELLED),
        ("send-now", Status.DEFERRED, "due now", Status.DEFERRED),
        ("release", Status.IN_DOUBT, "will be sent again", Status.DEFERRED),
        ("discard", Status.IN_DOUBT, "discarded", Status.FAILED),
    ],
)
def test_each_decision_says_that_it_was_carried_out(what: str, before: Status, said: str, after: Status) -> None:
    delivery = pretend(submitted(), status=before)
    assert run(what, delivery.pk) == (0, f"{delivery.pk}: {said}\n")
    assert Delivery.objects.get().status == after


def test_each_id_has_a_line_and_one_that_could_not_be_done_makes_it_fail() -> None:
    """The command carries out the other decisions nevertheless. Its output is English in any language of
    the project.
    """
    finished, held = pretend(submitted(), status=Status.ACCEPTED), submitted()
    claimed(held)
    waiting = submitted()
    gone = pretend(submitted(), has_content=False)
    with translation.override("de"):
        code, said = run("send-now", finished.pk, "unknown", gone.pk, waiting.pk)
        refused = run("send-now", held.pk)
    assert code == 1
    assert said.splitlines() == [
        f"✗ {finished.pk}: its status is accepted",
        "✗ unknown: there is no delivery with this id",
        f"✗ {gone.pk}: the content is no longer kept",
        f"{waiting.pk}: due now",
    ]
    assert refused == (1, f"✗ {held.pk}: its status is sending\n")


def test_a_copy_is_reported_by_its_id() -> None:
    delivery = submitted()
    code, said = run("resend", delivery.pk)
    copy = Delivery.objects.exclude(pk=delivery.pk).get()
    assert (code, said) == (0, f"{delivery.pk}: a copy will be sent as {copy.pk}\n")
    assert run("resend", "unknown") == (1, "✗ unknown: there is no delivery with this id\n")


def attempted() -> Delivery:
    """A delivery that was attempted once, and whose server named addresses in its reply."""
    delivery = pretend(
        submitted(KIM, "lee@example.com", from_email="noreply@example.com", subject="The secret subject"),
        status=Status.DEFERRED,
        attempts=1,
        code=450,
        reason="1 of 2 recipients were deferred",
        smtp_config="Primary",
        redirected_to="staging@example.com",
        recipients=[
            {"address": KIM, "status": "accepted", "code": 250},
            {"address": "lee@example.com", "status": "pending", "code": 450, "reply": "Lee is out", "reason": "later"},
        ],
    )
    DeliveryAttempt.objects.create(
        delivery=delivery,
        number=1,
        started_at=timezone.now(),
        duration=0.25,
        outcome=Status.DEFERRED,
        code=450,
        reason="1 of 2 recipients were deferred",
        reply="Lee <lee@example.com> is out",
        smtp_config="Primary",
        host="smtp.example.com",
        tls_version="TLSv1.3",
    )
    return delivery


def test_a_delivery_is_shown_with_its_attempts_and_without_addresses() -> None:
    delivery = attempted()
    code, said = run("show", delivery.pk)
    assert code == 0
    for words in (
        r"status +deferred",
        r"reason +1 of 2 recipients were deferred",
        r"priority +normal",
        r"content +\d+ octets, kept",
        r"in doubt +resend \(from the setting IN_DOUBT\)",
        r"redirected +yes",
        r"recipient +1: accepted",
        r"recipient +2: pending: later",
        r"attempt 1 +[-\d]+ [:\d]+ deferred in 0\.25 s \(Primary, smtp\.example\.com, TLSv1\.3\): 1 of 2",
    ):
        assert re.search(rf"^{words}", said, re.M), words
    for secret in (KIM, "lee@example.com", "noreply@example.com", "staging@example.com", "is out", "secret subject"):
        assert secret not in said


def test_addresses_are_shown_when_asked_for_and_contents_never() -> None:
    _code, said = run("show", attempted().pk, "--addresses")
    for words in (f"{KIM}: accepted", "lee@example.com: pending: later", "450 Lee is out", "from        noreply@"):
        assert words in said
    assert "staging@example.com" in said
    assert "Lee <lee@example.com> is out" in said
    assert "secret subject" not in said


def test_a_damaged_row_is_shown() -> None:
    delivery = pretend(submitted(), recipients=["nonsense"])
    assert "recipients  cannot be read" in run("show", delivery.pk, "--addresses")[1]


def test_what_does_not_exist_is_not_shown() -> None:
    with pytest.raises(CommandError, match="unknown: there is no delivery with this id"):
        run("show", "unknown")


def test_the_newest_are_listed_first_as_many_as_wanted() -> None:
    assert run("list") == (0, "There are no such deliveries.\n")
    ids = [submitted(KIM).pk for _ in range(4)]
    held = pretend(Delivery.objects.get(pk=ids[1]), status=Status.IN_DOUBT, reason="the worker was lost")
    every = run("list")[1]
    assert [line.split()[0] for line in every.splitlines()] == ids[::-1]
    assert [line.split()[0] for line in run("list", "--limit", "2")[1].splitlines()] == ids[:1:-1]
    (line,) = run("list", "--status", "in_doubt")[1].splitlines()
    assert re.fullmatch(rf"{held.pk}  [-\d]+ [:\d]+  in doubt +the worker was lost", line)
    assert KIM not in every


@pytest.mark.parametrize("wrong", [("list", "--limit", "0"), ("list", "--status", "lost"), ("cancel",), ()])
def test_what_makes_no_sense_is_refused(wrong: tuple[Any, ...]) -> None:
    with pytest.raises(CommandError):
        run(*wrong)


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("[self.stdout.write('a line of a list') for _ in range(20_000)]", 141, ""),
        ("self.stdout.write('one line, still in the buffer')", 141, ""),
        ("self.stdout.write('decided'); sys.exit(1)", 141, ""),
        ("raise BrokenPipeError('the connection to a server')", 1, "the connection to a server"),
    ],
    ids=["long list", "short list", "failed decision", "other pipe"],
)
@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_reader_that_closes_the_pipe_ends_the_command_quietly(
    code: str, status: int, said: str, unbuffered: bool
) -> None:
    """Like other Unix commands before ``head``: 141 is 128 + SIGPIPE. A broken connection elsewhere is an error."""
    script = (
        "import sys\n"
        "from django.conf import settings\n"
        "settings.configure()\n"
        "from email_integration.management.printing import PrintingCommand\n"
        "class Command(PrintingCommand):\n"
        "    requires_system_checks = ()\n"
        f"    def handle(self, **options): {code}\n"
        "Command().run_from_argv(['manage.py', 'list'])\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environment |= {"PYTHONUNBUFFERED": "1"} if unbuffered else {}
    ended = subprocess.run(
        [sys.executable, "-c", script], stdout=writer, stderr=subprocess.PIPE, text=True, env=environment
    )
    os.close(writer)
    assert ended.returncode == status, ended.stderr
    assert ended.stderr.strip().splitlines()[-1:] == ([] if not said else [f"BrokenPipeError: {said}"])


@pytest.mark.parametrize(
    "name",
    [
        *("delivery", "erase_recipient", "import_smtp_settings", "prune_deliveries", "rotate_smtp_passwords"),
        *("validate_notification_setup", "pause_email", "resume_email", "sweep_deliveries"),
    ],
)
def test_each_command_that_prints_is_such_a_command(name: str) -> None:
    assert isinstance(load_command_class("email_integration", name), PrintingCommand)


def test_letters_of_another_direction_do_not_reach_the_terminal() -> None:
    delivery = submitted()
    pretend(delivery, recipients=[{"address": "kim\u202e@example.com", "status": "pending"}])
    assert "kim\ufffd@example.com: pending" in run("show", delivery.pk, "--addresses")[1]
