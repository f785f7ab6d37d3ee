"""The live status: mail that is waiting, mail that needs a decision, and the workers."""

from __future__ import annotations

import datetime as dt
import functools
import logging
import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from django.utils import timezone

from email_integration.diagnosis.health_checks import CheckGroup
from email_integration.ledger.rows import accepted_as_copy, in_status
from email_integration.models import Delivery, Status
from email_integration.queue import sweeper
from email_integration.tasks import health
from email_integration.timezones import as_stored

logger = logging.getLogger(__name__)

#: The largest number that is counted, as in the list of deliveries.
COUNTED = 10_000

#: Seconds that the page waits for broker and workers together, and seconds that workers have to answer.
PATIENCE, FOR_WORKERS = 1.0, 0.3

#: The same for the first time in a process. It then loads the broker's library, and connects.
FIRST_PATIENCE, FIRST_FOR_WORKERS = 5.0, 1.0


def number(*statuses: Status, finished_since: dt.datetime | None = None, without_copies: bool = False) -> int:
    """Return the number of deliveries with one of these statuses, none of which may be 'accepted'.

    COUNTED + 1 means more than COUNTED. With ``without_copies`` those do not count of which a copy was accepted.
    """
    rows = Delivery.objects.order_by()
    found = functools.reduce(operator.or_, [in_status(rows, status) for status in statuses])
    if finished_since is not None:
        found = found.filter(finished_at__gte=finished_since)
    if without_copies:
        found = found.exclude(accepted_as_copy(found))
    return int(found[: COUNTED + 1].count())


class Answer(StrEnum):
    """How the question to the workers ended."""

    NAMES = "names"
    #: No worker answered in time.
    NONE = "none"
    #: The broker refused, or did not answer.
    NO_BROKER = "no broker"
    #: The question is still open.
    OPEN = "open"
    #: Tasks run in their caller, so no worker is needed.
    EAGER = "eager"


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The ``names`` of the workers that answered.

    If there is no answer: the workers of ``earlier``, the last answer in this process, and the time of the last sweep,
    which a worker has run. ``patience`` is the number of seconds that they had.
    """

    answer: Answer
    names: Sequence[str] = ()
    at: dt.datetime | None = None
    earlier: Workers | None = None
    last_sweep: dt.datetime | None = None
    patience: float = 0.0


class _Asked:
    """The question of this process to the workers. ``last`` is the last one that ended, ``known`` that with names."""

    def __init__(self) -> None:
        self.last: Workers | None = None
        self.known: Workers | None = None
        self._first_at: float | None = None
        self._checks = CheckGroup({"workers": self._ask})

    def start(self) -> Callable[[], Workers]:
        """Ask, and return a function that waits for the answers."""
        patience = self._patience()
        results = self._checks.start(patience=patience)

        def answered() -> Workers:
            ended = results()["workers"].ok
            still_open = Workers(answer=Answer.OPEN, patience=round(patience, 1))
            found = self.last if ended and self.last is not None else still_open
            return found if found.names else replace(found, earlier=self.known, last_sweep=_last_sweep())

        return answered

    def _patience(self) -> float:
        now = time.monotonic()
        self._first_at = self._first_at or now
        return PATIENCE if self.last is not None else max(PATIENCE, self._first_at + FIRST_PATIENCE - now)

    def _ask(self) -> tuple[bool, str]:
        timeout = FIRST_FOR_WORKERS if self.last is None else FOR_WORKERS
        try:
            names = health.alive(timeout=timeout)
        except Exception as error:  # each transport has its own errors
            logger.error("The workers cannot be asked (%s).", type(error).__name__)
            self.last = Workers(answer=Answer.NO_BROKER)
            return True, ""
        answer = Answer.NAMES if names else Answer.NONE
        self.last = Workers(answer=answer, names=names, at=timezone.now(), patience=timeout)
        self.known = self.last if names else self.known
        return True, ""


_asked = _Asked()


def workers() -> Callable[[], Workers]:
    """Ask the workers, and return a function that waits for their answers for a limited time.

    A question that takes longer goes on, and the next caller gets its answer.
    """
    return (lambda: Workers(answer=Answer.EAGER)) if health.is_eager() else _asked.start()


def _last_sweep() -> dt.datetime | None:
    try:
        heartbeat = sweeper.last_heartbeat()
    except Exception:  # each cache backend has its own errors
        return None
    return None if heartbeat is None else as_stored(dt.datetime.fromtimestamp(heartbeat, tz=dt.UTC))
