"""Tell what became of a mail: the application by the signals, and the log by a line.

No line has an address, a subject, or the server's own words, unless the setting LOG_ADDRESSES adds the recipients.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

from django.dispatch import Signal

from email_integration import conf, recursion, signals
from email_integration.models import Delivery, Status
from email_integration.on_commit import after_commit
from email_integration.outcomes.classification import InDoubt, Outcome
from email_integration.timezones import aware

from .records import Ended
from .rows import database, is_readable


def outcome(ended: Ended, before: list[dict[str, Any]]) -> None:
    """Announce how an attempt ended, once it is committed; ``before`` is how the recipients stood."""
    delivery = ended.delivery
    attempted(ended)
    settled = {item["address"] for item in before if item["status"] != "pending"}
    for item in delivery.recipients:
        if item["status"] == "failed" and item["address"] not in settled:
            _send(signals.recipient_refused, delivery, recipient=dict(item))
    if isinstance(ended.outcome, InDoubt):
        _send(signals.delivery_in_doubt, delivery)
    _send_end(delivery)


def end(delivery: Delivery) -> None:
    """Announce that a delivery is finished without an attempt, once that is committed."""
    moved(delivery)
    _send_end(delivery)


def _send_end(delivery: Delivery) -> None:
    signal = _OF_STATUS.get(Status(delivery.status))
    if signal is not None:
        _send(signal, delivery)


_OF_STATUS = {
    Status.ACCEPTED: signals.delivery_accepted,
    Status.FAILED: signals.delivery_failed,
    Status.QUARANTINED: signals.delivery_failed,
    Status.EXPIRED: signals.delivery_expired,
}


def _send(signal: Signal, delivery: Delivery, **arguments: Any) -> None:
    if not signal.has_listeners(Delivery):
        return
    # Django logs what a receiver raises.
    tell = functools.partial(signal.send_robust, sender=Delivery, delivery=delivery, **arguments)
    after_commit("tell of a delivery", _about(delivery, tell), using=database())


def _about(delivery: Delivery, act: Callable[[], object]) -> Callable[[], object]:
    """Do it as one that is about this delivery: what others have come to that are recorded with it is no matter."""
    kept = delivery.options

    def about() -> None:
        with recursion.within_delivery(kept):
            act()

    return about


#: Of all these lines, whatever module they come from.
logger = logging.getLogger("email_integration.delivery")

_LEVELS = {
    Status.FAILED: logging.WARNING,
    Status.EXPIRED: logging.WARNING,
    Status.IN_DOUBT: logging.WARNING,
    Status.QUARANTINED: logging.ERROR,
}

#: How a server's words begin that has an enhanced code (RFC 3463).
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}(?!\S)")


def submitted(delivery: Delivery) -> None:
    """A mail was submitted, once that is committed."""
    # For whoever looks closely: the caller knows, and pays for each line.
    if logger.isEnabledFor(logging.DEBUG):
        _say(delivery, logging.DEBUG, "Delivery %s: submitted", delivery.pk)


def submitted_together(deliveries: Sequence[Delivery]) -> None:
    """These mails were submitted, once that is committed: one line, however many they are."""
    if deliveries and logger.isEnabledFor(logging.DEBUG):
        say = functools.partial(logger.debug, "%d deliveries submitted together", len(deliveries))
        after_commit("log that mails were submitted", say, using=database())


def attempted(ended: Ended) -> None:
    """An attempt is recorded, once that is committed."""
    delivery, outcome, attempt = ended.delivery, ended.outcome, ended.attempt
    level = _LEVELS.get(Status(delivery.status), logging.INFO)
    if isinstance(outcome, InDoubt):
        level = logging.WARNING
    if not logger.isEnabledFor(level):
        return
    words, arguments = "Delivery %s: %s, attempt %d", [delivery.pk, _how(delivery, outcome), delivery.attempts]
    if delivery.smtp_config:
        words, arguments = f"{words} by %s", [*arguments, delivery.smtp_config]
    if attempt.duration is not None:
        words, arguments = f"{words} in %.3f s", [*arguments, attempt.duration]
    _say(
        delivery,
        level,
        f"{words}: %s",
        *arguments,
        delivery.reason,
        outcome=Status.IN_DOUBT.value if isinstance(outcome, InDoubt) else type(outcome).__name__.lower(),
        phase=str(outcome.phase or ""),
        duration=None if attempt.duration is None else round(attempt.duration, 6),
        enhanced_code=enhanced_code(outcome),
        cause=str(outcome.cause),
    )


def moved(delivery: Delivery) -> None:
    """A delivery was put off or came to its end without an attempt, once that is committed."""
    level = _LEVELS.get(Status(delivery.status), logging.INFO)
    if logger.isEnabledFor(level):
        _say(delivery, level, "Delivery %s: %s: %s", delivery.pk, Status(delivery.status).value, delivery.reason)


def enhanced_code(outcome: Outcome) -> str:
    """The enhanced status code of the reply; '' when there was none."""
    found = _ENHANCED.match(outcome.reply)
    return found[0] if found else ""


def _how(delivery: Delivery, outcome: Outcome) -> str:
    status = Status(delivery.status)
    if isinstance(outcome, InDoubt) and status is Status.DEFERRED:
        return "in doubt, to be sent again"
    return status.value


def _say(delivery: Delivery, level: int, words: str, *arguments: Any, **fields: Any) -> None:
    extra: dict[str, Any] = {
        "delivery_id": delivery.pk,
        "status": str(delivery.status),
        "attempt": delivery.attempts or None,
        "configuration": delivery.smtp_config,
        "lane": str(delivery.lane),
        "reply_code": delivery.code,
        "cause": delivery.cause,
        "reason": delivery.reason,
        "due_at": aware(delivery.due_at).isoformat() if delivery.status == Status.DEFERRED else None,
        **fields,
    }
    if conf.get("LOG_ADDRESSES") and is_readable(delivery):
        extra["recipients"] = [item["address"] for item in delivery.recipients]
        words, arguments = f"{words} to %s", (*arguments, ", ".join(extra["recipients"]))
    say = functools.partial(logger.log, level, words, *arguments, extra=extra)
    after_commit("log what became of a delivery", _about(delivery, say), using=database())
