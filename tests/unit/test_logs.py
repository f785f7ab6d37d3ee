"""The formatter for programs, and the log lines for people."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest

from config import logs
from email_integration.logs import FIELDS, JSONFormatter

#: Attributes of Python's own records; ``extra=`` with one of these names raises an error.
TAKEN = {*logging.makeLogRecord({}).__dict__, "message", "asctime"}


def record(message: str = "Delivery %s: accepted", *args: Any, name: str = "mail", **extra: Any) -> logging.LogRecord:
    return logging.getLogger("x").makeRecord(name, logging.INFO, "file", 1, message, args, None, extra=extra)


def test_a_line_is_one_object_with_the_fields_that_are_there() -> None:
    line = JSONFormatter().format(record("Delivery %s:\nfällt aus", "7", delivery_id="7", attempt=2, phase=""))
    assert "\n" not in line
    found = json.loads(line)
    assert (found["message"], found["delivery_id"], found["attempt"]) == ("Delivery 7:\nfällt aus", "7", 2)
    assert found["level"] == "INFO"
    assert "phase" not in found


def test_what_others_attach_is_left_out() -> None:
    """Celery attaches the arguments of tasks, which may be mails."""
    assert "kim@" not in JSONFormatter().format(record("x", data={"args": "['kim@example.com']"}, request="kim@"))


def test_an_error_comes_with_its_traceback() -> None:
    failed = record("Could not")
    try:
        raise ValueError("for this test")
    except ValueError:
        failed.exc_info = sys.exc_info()
    assert "ValueError: for this test" in json.loads(JSONFormatter().format(failed))["error"]


def test_no_field_has_a_name_that_logging_has_taken() -> None:
    assert not TAKEN & set(FIELDS)


def test_on_the_console_a_line_is_the_words_alone() -> None:
    settings = logs.settings("console", "INFO")
    formatter = logging.Formatter(settings["formatters"]["console"]["format"], style="{")
    line = formatter.format(record("Delivery %s: accepted", "7", delivery_id="7"))
    assert line.endswith("INFO mail: Delivery 7: accepted")


@pytest.mark.parametrize(
    ("line", "is_wanted"),
    [
        (record("x", {"name": "email_integration.tasks.deliver"}, name="celery.app.trace"), False),
        (record("x", {"name": "shop.tasks.order"}, name="celery.app.trace"), True),
        (record("Sending %s (%s)", "sweep", "email_integration.tasks.sweep", name="celery.beat"), False),
        (record("beat: Starting...", name="celery.beat"), True),
        (record("x", {"name": "email_integration.tasks.deliver"}, name="mail"), True),
    ],
)
def test_of_celery_s_lines_those_about_other_tasks_are_kept(line: logging.LogRecord, is_wanted: bool) -> None:
    assert logs.OncePerMail().filter(line) == is_wanted
