"""Tasks of an application that uses ``send_email``. They note their arguments in a file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from celery import shared_task

from email_integration.tasks import send_email

#: The environment variable that names the file.
NOTES = "ACCEPTANCE_NOTES"


def note_down(tag: str, what: Any) -> None:
    """Append a line in a single write, so that lines of several processes do not mix."""
    descriptor = os.open(os.environ[NOTES], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, json.dumps([tag, what]).encode() + b"\n")
    finally:
        os.close(descriptor)


def noted(file: Path, tag: str) -> list[Any]:
    """Return the notes under ``tag``."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [what for key, what in map(json.loads, lines) if key == tag]


@shared_task
def note(*args: Any, tag: str) -> Any:
    """Note the arguments and return the first."""
    note_down(tag, list(args))
    return args[0] if args else None


@shared_task
def note_error(request: Any, exc: Any, traceback: Any, tag: str) -> None:
    """An errback in Celery's newer form: the worker calls it with the request and the exception."""
    note_down(tag, [request.id, type(exc).__name__, str(exc)])


@shared_task
def note_failed_id(task_id: str, tag: str) -> None:
    """An errback in Celery's older form: it is sent as a task with the id as its only argument."""
    note_down(tag, task_id)


@shared_task
def fail() -> None:
    """Raise an error."""
    raise ValueError("meant to fail")


@shared_task(bind=True)
def become_a_mail(self: Any, subject: str, to: str) -> Any:
    """Replace this task by a mail."""
    return self.replace(send_email.s(subject, "Text", to=[to]))


@shared_task(bind=True)
def become_a_prepared_mail(self: Any, subject: str, to: str) -> Any:
    """Replace this task by a mail that was prepared first."""
    return self.replace(send_email.prepare(subject, "Text", to=[to]))


@shared_task
def send_from_within(subject: str, to: str) -> str:
    """Send a mail from inside a task."""
    return str(send_email.delay(subject, "Text", to=[to]).id)
