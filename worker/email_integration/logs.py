"""The structured fields of the app's log records, and a JSON formatter.

The app logs with ``logging`` and configures nothing. Each line about a delivery has the known ones of ``FIELDS``.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
from typing import Any

#: The attributes of log records that this app sets (``extra=``). These names do not change.
FIELDS = (
    "delivery_id",
    # The delivery's status now, and its attempt's outcome (when 'in_doubt' is sent again, the status is 'deferred').
    "status",
    "outcome",
    # The number of the attempt, from 1.
    "attempt",
    "configuration",
    "priority",
    # The phase of the dialogue in which the attempt ended.
    "phase",
    "reply_code",
    "enhanced_code",
    "reason",
    # In seconds.
    "duration",
    # The time of the next attempt.
    "due_at",
    # Only with LOG_ADDRESSES.
    "recipients",
    # For an alert: its condition, and whether it has begun or ended.
    "alert",
    "state",
)


class JSONFormatter(logging.Formatter):
    """A formatter that writes one JSON object a line.

    The keys are ``time`` (ISO 8601), ``level``, ``logger``, ``process``, ``message``, and FIELDS. ``error`` is the
    traceback of a record that has one. Attributes of other libraries are left out: Celery attaches the arguments of
    tasks, which may be mails, and Django attaches whole requests.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return ``record`` as one line."""
        line: dict[str, Any] = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        line |= {name: value for name in FIELDS if (value := getattr(record, name, None)) not in (None, "")}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        # A lone surrogate stays a JSON escape: a file in UTF-8 cannot hold it.
        return json.dumps(line, default=str, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
