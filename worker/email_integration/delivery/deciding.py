"""One decision about many deliveries: which of them it is possible for, and the decisions themselves.

The reasons why a delivery is not changed are keys; the admin has the words for them. A key is a ``Status``, one of
``Why``, or ``changed:`` or ``unreadable:`` with more after the colon.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from django.db import DatabaseError, InterfaceError, OperationalError, transaction

from email_integration.exceptions import ContentGone, ContentUnavailable
from email_integration.ledger import rows
from email_integration.models import FINAL, Delivery, Status

from . import manual

#: Seconds after which a batch takes no further delivery: its transaction holds locks.
_LONGEST = 1.0

#: Octets of content that are copied in one transaction, after which it takes no further delivery.
_LARGEST = 16 * 1024 * 1024

#: Longest text after the colon of a reason, in characters.
_LONGEST_REASON = 100

#: Statuses of mail that was not sent, and is not tried again.
_ENDED = (Status.FAILED, Status.EXPIRED, Status.CANCELLED)

#: The decisions by name. ``key`` is the idempotency key of a copy.
_DECISIONS: dict[str, Callable[[str, str], object]] = {
    "cancel": lambda pk, key: manual.cancel(pk),
    "send_now": lambda pk, key: manual.send_now(pk),
    "release": lambda pk, key: manual.release(pk),
    "discard": lambda pk, key: manual.discard(pk),
    "resend": lambda pk, key: manual.resend(pk, idempotency_key=key),
}


class Why(StrEnum):
    """Reasons other than the status of a delivery."""

    #: Its content is no longer kept.
    GONE = "gone"
    #: The row does not exist any more.
    DELETED = "deleted"
    #: It no longer matches the filter.
    UNMATCHED = "unmatched"
    #: The database has refused the change.
    ERROR = "error"


@dataclass(kw_only=True)
class Decided:
    """What was done about a batch of deliveries."""

    #: The number of deliveries that were handled, from the first of the batch.
    handled: int = 0
    changed: list[str] = field(default_factory=list)
    #: The number of changed ones whose cancellation was only requested, because they are being sent.
    requested: int = 0
    #: {reason: number of deliveries that were not changed}
    unchanged: Counter[str] = field(default_factory=Counter)


def why_not(action: str, status: str, *, has_content: bool) -> str:
    """Return the reason why ``action`` does not change a delivery with this current status; '' if it does.

    A delivery that is being sent can only be asked to be cancelled. The decision itself has the last word.
    """
    allowed = {
        "cancel": status not in FINAL,
        "send_now": status in manual.CAN_BE_SENT,
        "release": status == Status.IN_DOUBT,
        "discard": status == Status.IN_DOUBT,
        "resend": status != Status.SENDING,
    }
    if not allowed[action]:
        # Mail that has ended is sent again by a copy, which needs the content.
        is_lost = not has_content and status in _ENDED and action in ("send_now", "release")
        return Why.GONE if is_lost else str(status)
    return "" if has_content or action in ("cancel", "discard") else Why.GONE


def decide(action: str, mails: Sequence[tuple[str, str]], *, key: str) -> Decided:
    """Carry out ``action`` for deliveries, each given as (id, status as shown), in the caller's transaction.

    A delivery whose status is no longer the one shown is not changed, unless it is cancelled. ``key`` identifies the
    user's action: no delivery is copied twice with the same key. After a while the rest is left to the next batch.
    Raises ``DatabaseError`` if the transaction cannot continue.
    """
    done = Decided()
    began, copied = time.monotonic(), 0
    now = _locked([pk for pk, _shown in mails])
    for pk, shown in mails:
        if done.handled and (time.monotonic() - began > _LONGEST or copied > _LARGEST):
            break
        done.handled += 1
        one = now.get(pk)
        why = _why_not_now(action, one, shown) if one is not None else Why.DELETED
        if why or one is None:
            done.unchanged[why] += 1
            continue
        why = _decide_one(action, one, key)
        if why:
            done.unchanged[why] += 1
            continue
        done.changed.append(pk)
        done.requested += one.current_status == Status.SENDING
        copied += one.content_size if action == "resend" else 0
    return done


def _locked(ids: Sequence[str]) -> dict[str, Delivery]:
    """Return the deliveries. Those that no process has claimed are locked, so that their status does not change.

    A claimed one is not locked: all code that locks a batch and its deliveries locks the batch first.
    """
    found = Delivery.objects.filter(pk__in=ids).order_by("pk")
    list(found.select_for_update().filter(batch="").values_list("pk", flat=True))
    return {one.pk: one for one in found.only("status", "batch", "has_content", "content_size")}


def _why_not_now(action: str, delivery: Delivery, shown: str) -> str:
    status = delivery.current_status
    if status not in (shown, Status.SENDING) and action != "cancel":
        return f"changed:{status}"
    return why_not(action, status, has_content=delivery.has_content)


def _decide_one(action: str, delivery: Delivery, key: str) -> str:
    """Carry out the decision, and return why nothing was changed; '' if it was."""
    # An id may be as long as an idempotency key, which must also contain that of the action.
    copy_key = f"bulk-action:{hashlib.sha256(f'{key}:{delivery.pk}'.encode()).hexdigest()}"
    try:
        with transaction.atomic(using=rows.database()):
            if _DECISIONS[action](delivery.pk, copy_key):
                return ""
    except ContentGone:
        return Why.GONE
    except ContentUnavailable as error:
        return f"unreadable:{error}"[:_LONGEST_REASON]
    except Delivery.DoesNotExist:
        return Why.DELETED
    except (OperationalError, InterfaceError):
        raise
    except DatabaseError:
        return Why.ERROR
    fresh = rows.load(delivery.pk)
    return fresh.current_status if fresh is not None else Why.DELETED
