"""The log line of each change of a mail's state."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.db import transaction

from email_integration import routing, submit_many
from email_integration.delivery import manual
from email_integration.models import Delivery
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import InDoubt
from email_integration.queue import retry_now
from email_integration.smtp import Relay
from email_integration.smtpd import Fault, SMTPServer
from tests.claims import claimed, record
from tests.deliveries import RecordingTaskQueue, ago, attempt, pretend, submitted
from tests.relays import config_for

Serve = Callable[..., SMTPServer]

pytestmark = pytest.mark.django_db(transaction=True)

KIM = "kim@example.com"


@pytest.fixture(autouse=True)
def _log(task_queue: RecordingTaskQueue, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.DEBUG, "email_integration"):
        yield


def logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the log lines about mails since the last call."""
    found = [record for record in caplog.records if record.name == "email_integration.delivery"]
    caplog.clear()
    return found


def test_what_is_rolled_back_was_not_submitted(caplog: pytest.LogCaptureFixture) -> None:
    with transaction.atomic():
        submitted(KIM)
        transaction.set_rollback(True)
    assert not logged(caplog)
    delivery = submitted(KIM)
    [line] = logged(caplog)
    assert line.getMessage() == f"Delivery {delivery.pk}: submitted"


def test_a_batch_has_one_line(caplog: pytest.LogCaptureFixture) -> None:
    submit_many((EmailMessage("S", "B", to=[KIM]) for _ in range(3)), priority="normal")
    assert [line.getMessage() for line in logged(caplog)] == ["3 deliveries submitted together"]


@pytest.mark.parametrize(
    ("reply", "level", "expected"),
    [
        (
            None,
            "INFO",
            {"status": "accepted", "outcome": "accepted", "phase": "final_dot", "reply_code": 250, "cause": ""},
        ),
        (
            "450 4.2.0 busy",
            "INFO",
            {"status": "deferred", "phase": "rcpt", "enhanced_code": "4.2.0", "cause": "busy"},
        ),
        ("550 5.1.1 who?", "WARNING", {"status": "failed", "phase": "rcpt", "reply_code": 550, "cause": "no_mailbox"}),
    ],
)
def test_an_attempt_has_a_line_with_what_machines_ask_for(
    smtp_server: Serve, caplog: pytest.LogCaptureFixture, reply: str | None, level: str, expected: dict[str, Any]
) -> None:
    faults = [Fault(verb="RCPT", reply=f"{reply} kim@example.com")] if reply else []
    config_for(smtp_server(security="plain", user=None, faults=faults), name="Primary")
    delivery = submitted(KIM)
    logged(caplog)
    attempt(delivery.pk)
    [line] = logged(caplog)
    assert line.levelname == level
    found = line.__dict__
    assert {name: found[name] for name in expected} == expected
    assert (found["delivery_id"], found["attempt"], found["configuration"]) == (delivery.pk, 1, "Primary")
    assert found["duration"] > 0
    assert bool(found["due_at"]) == (expected["status"] == "deferred")
    assert "kim@" not in repr(found)


def test_with_log_addresses_a_line_names_the_recipients(
    smtp_server: Serve, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "LOG_ADDRESSES": True}
    config_for(smtp_server(security="plain", user=None))
    attempt(submitted(KIM).pk)
    lines = logged(caplog)
    assert all(line.getMessage().endswith(f" to {KIM}") for line in lines)
    assert [line.__dict__["recipients"] for line in lines] == [[KIM], [KIM]]


def test_what_is_sent_again_though_in_doubt_is_logged_as_that(caplog: pytest.LogCaptureFixture) -> None:
    batch = claimed(submitted(KIM))
    logged(caplog)
    assert record(batch, InDoubt(cause=Cause.IN_DOUBT, reason="the connection was lost"))
    [line] = logged(caplog)
    assert "in doubt, will be sent again" in line.getMessage()
    assert (line.levelname, line.__dict__["outcome"], line.__dict__["status"]) == ("WARNING", "in_doubt", "deferred")


@pytest.mark.parametrize(("change", "status", "level"), [({"expires_at": ago(1)}, "expired", "WARNING"), ({}, "", "")])
def test_an_end_without_an_attempt_has_a_line(
    caplog: pytest.LogCaptureFixture, change: dict[str, Any], status: str, level: str
) -> None:
    delivery = submitted(KIM)
    logged(caplog)
    if change:
        pretend(delivery, **change)
        attempt(delivery.pk)
    else:
        status, level = "cancelled", "INFO"
        manual.cancel(delivery.pk)
    [line] = logged(caplog)
    assert (line.__dict__["status"], line.__dict__["cause"], line.levelname) == (status, status, level)


def test_the_breaker_and_what_waits_for_it_are_logged_once(
    smtp_server: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """After a wrong password: one attempt, one open breaker, and one line for each mail that is deferred untried."""
    config_for(smtp_server(), name="Primary", password="s3cret")
    first, second = submitted(KIM), submitted(KIM)
    attempt(first.pk)
    attempt(second.pk)
    Delivery.objects.update(due_at=ago(1), next_at=ago(1))
    attempt(second.pk)
    [tripped] = [line for line in caplog.records if "is open" in line.getMessage()]
    assert (tripped.levelname, tripped.__dict__["configuration"], tripped.__dict__["reply_code"]) == (
        "WARNING",
        "Primary",
        535,
    )
    assert [line.__dict__["delivery_id"] for line in logged(caplog) if line.__dict__["status"] == "deferred"] == [
        first.pk,
        second.pk,
    ]
    relay = routing.active_relay()
    assert isinstance(relay, Relay)
    retry_now.reset_breaker(relay)
    assert [line.getMessage() for line in caplog.records] == ["The circuit breaker of Primary is closed again."]


def test_a_switch_is_logged_once(smtp_server: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = smtp_server(security="plain", user=None)
    config_for(server, name="One")
    routing.active_relay()
    caplog.clear()
    config_for(server, name="Two")
    routing.active_relay()
    routing.active_relay()
    assert [record.getMessage() for record in caplog.records] == ["Mail is sent through Two from now on."]


def recorded_together(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the lines of three mails that are recorded in one commit."""
    for _ in range(3):
        submitted(KIM)
    batch = claimed()
    caplog.clear()
    assert record(batch)
    lines = logged(caplog)
    assert [getattr(line, "delivery_id") for line in lines] == [one.pk for one in batch.deliveries]  # noqa: B009
    return lines


def test_mails_recorded_together_have_a_whole_line_each(caplog: pytest.LogCaptureFixture) -> None:
    [expected] = (submitted(KIM), record(claimed()), logged(caplog))[2][-1:]
    for line in recorded_together(caplog):
        assert line.getMessage().startswith(f"Delivery {line.__dict__['delivery_id']}: accepted, attempt 1 by Primary")
        assert set(vars(line)) == set(vars(expected))
        same = ("levelname", "levelno", "name", "module", "lineno", "thread", "process", "processName", "threadName")
        assert {name: vars(line)[name] for name in same} == {name: vars(expected)[name] for name in same}
        assert line.created >= expected.created


def test_each_line_is_made_by_the_factory_that_a_project_has_set(caplog: pytest.LogCaptureFixture) -> None:
    usual = logging.getLogRecordFactory()
    numbers = iter(range(1000))

    def numbered(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = usual(*args, **kwargs)
        made.number = next(numbers)
        return made

    logging.setLogRecordFactory(numbered)
    try:
        lines = recorded_together(caplog)
    finally:
        logging.setLogRecordFactory(usual)
    assert len({vars(line)["number"] for line in lines}) == len(lines)


def test_a_line_that_cannot_be_logged_keeps_back_no_other(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    def breaks(line: logging.LogRecord) -> bool:
        seen.append(vars(line)["delivery_id"])
        if len(seen) == 2:
            raise ValueError("for this test")
        return False

    for _ in range(3):
        submitted(KIM)
    batch = claimed()
    logger = logging.getLogger("email_integration.delivery")
    logger.addFilter(breaks)
    try:
        assert record(batch)
    finally:
        logger.removeFilter(breaks)
    assert seen == [one.pk for one in batch.deliveries]
    assert "Could not log the outcome of an attempt (ValueError)." in caplog.text
