"""The log format of every program of this project, and the filter for Celery's lines."""

from __future__ import annotations

import io
import logging.config
import sys
from typing import Any

from email_integration.logs import JSONFormatter

#: The values of LOG_FORMAT: lines for people, or JSON for machines.
FORMATS = ("console", "json")

#: These loggers report the sending, receiving and end of each task.
_OF_TASKS = ("celery.beat", "celery.worker.strategy", "celery.app.trace")
_OURS = "email_integration.tasks."


class OncePerMail(logging.Filter):
    """Leave out Celery's lines about the app's own tasks: the app logs a line for each change of a mail's status."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to keep the line."""
        return not (
            record.name in _OF_TASKS and record.levelno == logging.INFO and self._task(record).startswith(_OURS)
        )

    def _task(self, record: logging.LogRecord) -> str:
        """Return the name of the task that the line is about, or ''."""
        about: Any = record.args
        if isinstance(about, dict):
            return str(about.get("name", ""))
        return str(about[-1]) if about else ""


def settings(form: str, level: str) -> dict[str, Any]:
    """Return Django's LOGGING: all lines to the console, none by mail.

    Django's default would mail error reports to ADMINS, and they contain data of the request.
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
            # With DEBUG it logs all SQL at level DEBUG, and the SQL contains the mails.
            "django.db.backends": {"level": "INFO"},
        },
    }


class _Said(io.TextIOBase):
    """A stream that logs each line."""

    def write(self, text: str) -> int:
        for line in text.splitlines():
            if line.strip():
                logging.getLogger("config.said").info("%s", line.strip())
        return len(text)

    def writable(self) -> bool:
        return True


def begin(settings: dict[str, Any]) -> None:
    """Configure logging and warnings now: Django does so only in its setup, and Celery warns before that."""
    logging.config.dictConfig(settings)
    logging.captureWarnings(True)


def log_what_is_printed() -> None:
    """Turn all printed lines of this process into log lines, for machines: Celery prints a farewell on stdout."""
    sys.stdout = sys.__stdout__ = _Said()  # type: ignore[assignment,misc]  # only write() is used
