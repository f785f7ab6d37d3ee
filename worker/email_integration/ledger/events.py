"""Emit the outcomes of a mail: as signals for the application, and as lines of the log.

No line contains an address, a subject, or the server's reply text. The setting LOG_ADDRESSES adds the recipients.
"""

from __future__ import annotations

import functools
import itertools
import logging
import operator
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from django.dispatch import Signal

from email_integration import conf, recursion, signals
from email_integration.models import Delivery, Status
from email_integration.on_commit import Act, after_commit, after_commit_each, do_each
from email_integration.outcomes.classification import InDoubt, Outcome
from email_integration.timezones import aware

from .records import Ended
from .rows import database, is_readable


def outcome(ended: Ended, before: list[dict[str, Any]]) -> list[Act]:
    """Return the acts that emit the outcome of an attempt after its commit. ``before`` are the earlier recipients."""
    delivery = ended.delivery
    acts = attempted(ended)
    failed = [item for item in delivery.recipients if item["status"] == "failed"]
    if failed:
        settled = {item["address"] for item in before if item["status"] != "pending"}
        for item in failed:
            if item["address"] not in settled:
                acts += _signalled(signals.recipient_refused, delivery, recipient=dict(item))
    if isinstance(ended.outcome, InDoubt):
        acts += _signalled(signals.delivery_in_doubt, delivery)
    return acts + _end(delivery)


def end(delivery: Delivery) -> list[Act]:
    """Return the acts that emit the end of a delivery without an attempt, after its commit."""
    return moved(delivery) + _end(delivery)


def _end(delivery: Delivery) -> list[Act]:
    signal = _OF_STATUS.get(delivery.status)
    return [] if signal is None else _signalled(signal, delivery)


_OF_STATUS: dict[str, Signal] = {
    Status.ACCEPTED: signals.delivery_accepted,
    Status.FAILED: signals.delivery_failed,
    Status.QUARANTINED: signals.delivery_failed,
    Status.EXPIRED: signals.delivery_expired,
}


def _signalled(signal: Signal, delivery: Delivery, **arguments: Any) -> list[Act]:
    # Most signals have no receivers, and asking a signal about a sender takes as long as all the rest.
    if not (signal.receivers and signal.has_listeners(Delivery)):
        return []
    # Django logs the errors of receivers.
    send = functools.partial(signal.send_robust, sender=Delivery, delivery=delivery, **arguments)
    return [("send a signal of a delivery", functools.partial(recursion.within_delivery, delivery.options, send))]


#: The logger of all these lines, for every module.
logger = logging.getLogger("email_integration.delivery")

_LEVELS: dict[str, int] = {
    Status.FAILED: logging.WARNING,
    Status.EXPIRED: logging.WARNING,
    Status.IN_DOUBT: logging.WARNING,
    Status.QUARANTINED: logging.ERROR,
}

#: The beginning of a reply text that has an enhanced status code (RFC 3463).
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}(?!\S)")


def submitted(delivery: Delivery) -> None:
    """Log the submission of a mail after its commit."""
    # At level DEBUG only: the caller knows of the submission, and each line costs time.
    if logger.isEnabledFor(logging.DEBUG):
        after_commit_each([_line(delivery, logging.DEBUG, "Delivery %s: submitted", delivery.pk)], using=database())


def submitted_together(deliveries: Sequence[Delivery]) -> None:
    """Log the submission of several mails after their commit, in one line."""
    if deliveries and logger.isEnabledFor(logging.DEBUG):
        say = functools.partial(logger.debug, "%d deliveries submitted together", len(deliveries))
        after_commit("log the submission of mails", say, using=database())


def attempted(ended: Ended) -> list[Act]:
    """Return the log line about a recorded attempt."""
    delivery, outcome, attempt = ended.delivery, ended.outcome, ended.attempt
    in_doubt = isinstance(outcome, InDoubt)
    level = logging.WARNING if in_doubt else _LEVELS.get(delivery.status, logging.INFO)
    if not logger.isEnabledFor(level):
        return []
    how = str(delivery.status)
    if in_doubt and how == Status.DEFERRED:
        how = "in doubt, will be sent again"
    words, arguments = "Delivery %s: %s, attempt %d", [delivery.id, how, delivery.attempts]
    if delivery.smtp_config:
        words += " by %s"
        arguments.append(delivery.smtp_config)
    if attempt.duration is not None:
        words += " in %.3f s"
        arguments.append(attempt.duration)
    return [
        _line(
            delivery,
            level,
            f"{words}: %s",
            *arguments,
            delivery.reason,
            outcome=Status.IN_DOUBT.value if in_doubt else type(outcome).__name__.lower(),
            phase=str(outcome.phase or ""),
            duration=None if attempt.duration is None else round(attempt.duration, 6),
            enhanced_code=enhanced_code(outcome),
            cause=str(outcome.cause),
        )
    ]


def moved(delivery: Delivery) -> list[Act]:
    """Return the log line about a delivery that was deferred or ended without an attempt."""
    level = _LEVELS.get(delivery.status, logging.INFO)
    if not logger.isEnabledFor(level):
        return []
    return [_line(delivery, level, "Delivery %s: %s: %s", delivery.pk, str(delivery.status), delivery.reason)]


def enhanced_code(outcome: Outcome) -> str:
    """Return the enhanced status code of the reply (RFC 3463); '' when there is none."""
    found = _ENHANCED.match(outcome.reply)
    return found[0] if found else ""


def _line(delivery: Delivery, level: int, words: str, *arguments: Any, **fields: Any) -> Act:
    extra: dict[str, Any] = {
        "delivery_id": delivery.id,
        "status": str(delivery.status),
        "attempt": delivery.attempts or None,
        "configuration": delivery.smtp_config,
        "priority": str(delivery.priority),
        "reply_code": delivery.code,
        "cause": delivery.cause,
        "reason": delivery.reason,
        "due_at": aware(delivery.due_at).isoformat() if delivery.status == Status.DEFERRED else None,
        **fields,
    }
    if conf.get("LOG_ADDRESSES") and is_readable(delivery):
        extra["recipients"] = [item["address"] for item in delivery.recipients]
        words, arguments = f"{words} to %s", (*arguments, ", ".join(extra["recipients"]))
    return _LOG, _Line(delivery.options, level, words, arguments, extra)


@dataclass(slots=True)
class _Line:
    """A log line about a delivery. ``kept`` is the ``options`` column of its row. Calling the object logs the line."""

    kept: str
    level: int
    words: str
    arguments: tuple[Any, ...]
    extra: dict[str, Any]

    def __call__(self) -> None:
        recursion.within_delivery(self.kept, _log, [self])


#: The name of a log line's act.
_LOG = "log the outcome of an attempt"

_what, _kept = operator.itemgetter(0), operator.attrgetter("kept")


def together(acts: Iterable[Act]) -> list[Act]:
    """Return the same acts, but log adjacent lines together, which halves the time."""
    found: list[Act] = []
    for what, alike in itertools.groupby(acts, _what):
        if what == _LOG:
            lines = [line for _, line in alike if isinstance(line, _Line)]
            found.append((_LOG, functools.partial(_log_together, lines)))
        else:
            found += alike
    return found


def _log_together(lines: Sequence[_Line]) -> None:
    for kept, alike in itertools.groupby(lines, _kept):
        recursion.within_delivery(kept, _log, list(alike))


def _log(lines: Sequence[_Line]) -> None:
    """Log lines without searching the stack for the caller, which is always this function."""
    if _is_usual():
        do_each((_LOG, functools.partial(logger.handle, record)) for record in _copies(lines))
    else:
        do_each((_LOG, functools.partial(_log_one, line)) for line in lines)


def _is_usual() -> bool:
    """Return whether the standard library creates the log records. Another factory may make each record different."""
    if logging.getLogRecordFactory() is not logging.LogRecord:
        return False
    makes = getattr(logger.makeRecord, "__func__", logger.makeRecord)
    return getattr(makes, "__globals__", None) is vars(logging)  # false for a replaced method


def _log_one(line: _Line) -> None:
    logger.handle(_record(line.level, line.words, line.arguments, line.extra))


def _record(
    level: int, words: str, arguments: tuple[Any, ...], extra: dict[str, Any] | None = None
) -> logging.LogRecord:
    return logger.makeRecord(logger.name, level, *_HERE, words, arguments, None, _log.__name__, extra)


def _copies(lines: Iterable[_Line]) -> Iterator[logging.LogRecord]:
    """Yield records that share one record's thread, process, place and time."""
    common = _record(logging.INFO, "", ()).__dict__
    for line in lines:
        level = {"levelno": line.level, "levelname": logging.getLevelName(line.level)}
        record = logging.LogRecord.__new__(logging.LogRecord)
        record.__dict__ = {**common, **level, "msg": line.words, "args": line.arguments, **line.extra}
        yield record


#: The file and the first line of ``_log``.
_HERE = _log.__code__.co_filename, _log.__code__.co_firstlineno
