"""How the lines of the log look, in every program of this project, and which of Celery's are left out."""

from __future__ import annotations

import io
import logging.config
import sys
from typing import Any

from email_integration.logs import JSONFormatter

#: What LOG_FORMAT may be: lines for people, or JSON for machines.
FORMATS = ("console", "json")

#: These tell of each task that it was sent, that it was received, and how it ended.
_OF_TASKS = ("celery.beat", "celery.worker.strategy", "celery.app.trace")
_OURS = "email_integration.tasks."


class OncePerMail(logging.Filter):
    """Leaves out what Celery says of the app's own tasks: the app has a line for each change of a mail's state."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether the line is wanted."""
        return not (
            record.name in _OF_TASKS and record.levelno == logging.INFO and self._task(record).startswith(_OURS)
        )

    def _task(self, record: logging.LogRecord) -> str:
        """The name of the task that it is about; '' for none."""
        about: Any = record.args
        if isinstance(about, dict):
            return str(about.get("name", ""))
        return str(about[-1]) if about else ""


def settings(form: str, level: str) -> dict[str, Any]:
    """Return Django's LOGGING: everything to the console, nothing by mail.

    Django's own would mail error reports to ADMINS, and those hold what was in the request.
    """
    formatters = {
        "console": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"},
        "json": {"()": JSONFormatter},
    }
    filters = [] if level == "DEBUG" else ["once"]
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": formatters,
        "filters": {"once": {"()": OncePerMail}},
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": form, "filters": filters}},
        "root": {"handlers": ["console"], "level": level},
        "loggers": {
            "django": {"handlers": [], "level": level},
            # With DEBUG it logs all SQL at level DEBUG, and the SQL holds the mails.
            "django.db.backends": {"level": "INFO"},
        },
    }


class _Said(io.TextIOBase):
    """A stream whose lines are logged."""

    def write(self, text: str) -> int:
        for line in text.splitlines():
            if line.strip():
                logging.getLogger("config.said").info("%s", line.strip())
        return len(text)

    def writable(self) -> bool:
        return True


def begin(settings: dict[str, Any]) -> None:
    """Log at once, and warnings too: Django configures logging only when it is set up, and Celery warns before that."""
    logging.config.dictConfig(settings)
    logging.captureWarnings(True)


def log_what_is_printed() -> None:
    """Have a process whose output machines read print nothing but lines of the log: Celery says goodbye on stdout."""
    sys.stdout = sys.__stdout__ = _Said()  # type: ignore[assignment,misc]  # all that is done with it is to write
