"""What the lines of the log hold beside their words, for whoever reads them by a machine; and a formatter for JSON.

The app logs with ``logging`` and configures nothing. Each line about a delivery has those of ``FIELDS`` that it knows.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
from typing import Any

#: The attributes of log records that this app sets (``extra=``). These names do not change.
FIELDS = (
    "delivery_id",
    # How the delivery stands now, and how its attempt ended ('in_doubt' is 'deferred' then, when it is sent again).
    "status",
    "outcome",
    # The number of the attempt, from 1.
    "attempt",
    "configuration",
    "priority",
    # Where in the dialogue the attempt ended.
    "phase",
    "reply_code",
    "enhanced_code",
    "reason",
    # In seconds.
    "duration",
    # When it is tried again.
    "due_at",
    # Only with LOG_ADDRESSES.
    "recipients",
    # Of an alert: which condition, and whether it has begun or ended.
    "alert",
    "state",
)


class JSONFormatter(logging.Formatter):
    """One JSON object a line: ``time`` (ISO 8601), ``level``, ``logger``, ``process``, ``message``, and FIELDS.

    ``error`` is the traceback of a line that has one. What others have attached is left out: Celery attaches the
    arguments of tasks, which may be mails, and Django whole requests.
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
        # A half of a character stays an escape of JSON: no file could take it as it is.
        return json.dumps(line, default=str, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
