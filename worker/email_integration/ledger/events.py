"""Emit what became of a mail: to the application by the signals, and to the log by a line.

No line has an address, a subject, or the server's own words, unless the setting LOG_ADDRESSES adds the recipients.
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
    """Return what emits how an attempt ended, once that is committed; ``before`` is how the recipients stood."""
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
    """Return what emits that a delivery is finished without an attempt, once that is committed."""
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
    # Most have no receivers, and to ask the signal about a sender takes as long as all the rest.
    if not (signal.receivers and signal.has_listeners(Delivery)):
        return []
    # Django logs what a receiver raises.
    send = functools.partial(signal.send_robust, sender=Delivery, delivery=delivery, **arguments)
    return [("send a signal of a delivery", functools.partial(recursion.within_delivery, delivery.options, send))]


#: Of all these lines, whatever module they come from.
logger = logging.getLogger("email_integration.delivery")

_LEVELS: dict[str, int] = {
    Status.FAILED: logging.WARNING,
    Status.EXPIRED: logging.WARNING,
    Status.IN_DOUBT: logging.WARNING,
    Status.QUARANTINED: logging.ERROR,
}

#: How a server's words begin that has an enhanced code (RFC 3463).
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}(?!\S)")


def submitted(delivery: Delivery) -> None:
    """A mail was submitted: log it once that is committed."""
    # For whoever looks closely: the caller knows, and pays for each line.
    if logger.isEnabledFor(logging.DEBUG):
        after_commit_each([_line(delivery, logging.DEBUG, "Delivery %s: submitted", delivery.pk)], using=database())


def submitted_together(deliveries: Sequence[Delivery]) -> None:
    """These mails were submitted: log it once that is committed, in one line, however many they are."""
    if deliveries and logger.isEnabledFor(logging.DEBUG):
        say = functools.partial(logger.debug, "%d deliveries submitted together", len(deliveries))
        after_commit("log that mails were submitted", say, using=database())


def attempted(ended: Ended) -> list[Act]:
    """The line about an attempt that is recorded."""
    delivery, outcome, attempt = ended.delivery, ended.outcome, ended.attempt
    in_doubt = isinstance(outcome, InDoubt)
    level = logging.WARNING if in_doubt else _LEVELS.get(delivery.status, logging.INFO)
    if not logger.isEnabledFor(level):
        return []
    how = str(delivery.status)
    if in_doubt and how == Status.DEFERRED:
        how = "in doubt, to be sent again"
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
    """The line about a delivery that was put off or came to its end without an attempt."""
    level = _LEVELS.get(delivery.status, logging.INFO)
    if not logger.isEnabledFor(level):
        return []
    return [_line(delivery, level, "Delivery %s: %s: %s", delivery.pk, str(delivery.status), delivery.reason)]


def enhanced_code(outcome: Outcome) -> str:
    """The enhanced status code of the reply; '' when there was none."""
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
    """A line of the log about a delivery whose row keeps ``kept``; to be called is to log it."""

    kept: str
    level: int
    words: str
    arguments: tuple[Any, ...]
    extra: dict[str, Any]

    def __call__(self) -> None:
        recursion.within_delivery(self.kept, _log, [self])


#: What a line does, as an act.
_LOG = "log the outcome of an attempt"

_what, _kept = operator.itemgetter(0), operator.attrgetter("kept")


def together(acts: Iterable[Act]) -> list[Act]:
    """The same acts, with lines that follow each other logged in one go, which takes half of the time."""
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
    """Log lines without looking for the caller, which is here each time."""
    if _is_usual():
        do_each((_LOG, functools.partial(logger.handle, record)) for record in _copies(lines))
    else:
        do_each((_LOG, functools.partial(_log_one, line)) for line in lines)


def _is_usual() -> bool:
    """Whether a record of the log is what the standard library makes; each of others may have something of its own."""
    if logging.getLogRecordFactory() is not logging.LogRecord:
        return False
    makes = getattr(logger.makeRecord, "__func__", logger.makeRecord)
    return getattr(makes, "__globals__", None) is vars(logging)  # not one that was put into its place


def _log_one(line: _Line) -> None:
    logger.handle(_record(line.level, line.words, line.arguments, line.extra))


def _record(
    level: int, words: str, arguments: tuple[Any, ...], extra: dict[str, Any] | None = None
) -> logging.LogRecord:
    return logger.makeRecord(logger.name, level, *_HERE, words, arguments, None, _log.__name__, extra)


def _copies(lines: Iterable[_Line]) -> Iterator[logging.LogRecord]:
    """Make the records of one: thread, process, place and time are found out once."""
    common = _record(logging.INFO, "", ()).__dict__
    for line in lines:
        level = {"levelno": line.level, "levelname": logging.getLevelName(line.level)}
        record = logging.LogRecord.__new__(logging.LogRecord)
        record.__dict__ = {**common, **level, "msg": line.words, "args": line.arguments, **line.extra}
        yield record


#: The file and the line of ``_log``.
_HERE = _log.__code__.co_filename, _log.__code__.co_firstlineno
