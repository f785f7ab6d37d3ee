"""The live status: mail that is waiting, mail that needs a decision, and the workers."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from django.utils import timezone

from email_integration.diagnosis.health_checks import CheckGroup
from email_integration.ledger.rows import in_status
from email_integration.models import Delivery, Status
from email_integration.queue.waiting import unclaimed
from email_integration.tasks import health

#: The largest number that is counted, as in the list of deliveries.
COUNTED = 10_000

#: Seconds that the page waits for broker and workers together, and seconds that workers have to answer.
PATIENCE, FOR_WORKERS = 1.0, 0.3


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """The delivery that has been due for longest: since when, and its status."""

    since: dt.datetime
    status: str


def number(status: Status, *, finished_since: dt.datetime | None = None) -> int:
    """Return the number of deliveries with this status, which must not be 'accepted'.

    COUNTED + 1 means more than COUNTED.
    """
    found = in_status(Delivery.objects.all(), status).order_by()
    if finished_since is not None:
        found = found.filter(finished_at__gte=finished_since)
    return int(found[: COUNTED + 1].count())


def oldest_waiting() -> Waiting | None:
    """Return the oldest due delivery that waits only for a worker, or None."""
    waiting = unclaimed().filter(due_at__lte=timezone.now())
    found = waiting.order_by("due_at").values("due_at", "status").first()
    return None if found is None else Waiting(since=found["due_at"], status=found["status"])


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The workers that answered.

    ``reachable`` is False if the broker did not answer in time. ``eager`` is True if tasks run in their caller, so that
    no worker is needed.
    """

    names: Sequence[str] = ()
    reachable: bool = True
    eager: bool = False


def workers() -> Callable[[], Workers]:
    """Ask the workers, and return a function that waits for their answers, at most until PATIENCE seconds from now."""
    if health.is_eager():
        return lambda: Workers(eager=True)
    results = _checks.start(patience=PATIENCE)

    def answered() -> Workers:
        result = results()["workers"]
        return Workers(names=result.text.split(), reachable=result.ok)

    return answered


def _alive_workers() -> tuple[bool, str]:
    return True, " ".join(health.alive(timeout=FOR_WORKERS))


_checks = CheckGroup({"workers": _alive_workers})
