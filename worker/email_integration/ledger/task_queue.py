"""The interface between deliveries and the task queue that works on them.

The database is the truth; a ring only says 'look at this delivery'. Lost, doubled or late rings cost time, never mail.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Protocol

from django.db import transaction

from email_integration import recursion
from email_integration.models import Delivery
from email_integration.on_commit import after_commit

from .sql import Row

logger = logging.getLogger(__name__)


class PartlyHeard(Exception):
    """Some of the deliveries could not be rung for, all others were."""

    def __init__(self, unheard: Sequence[Delivery]) -> None:
        super().__init__(unheard)
        #: Those that could not be rung for. They are not to be tried at once again.
        self.unheard = unheard


class Doorbell(Protocol):
    """What a task queue provides."""

    def ring(self, deliveries: Sequence[Delivery]) -> None:
        """Have a worker look at each delivery; return in about a second even if the broker is dead.

        Raises ``PartlyHeard``; whatever else it raises means that none may have been heard.
        """

    def call_for_sweep(self) -> None:
        """Have a worker sweep now; return in about a second even if the broker is dead."""

    def report(self, delivery: Delivery) -> Sequence[Row]:
        """The rows that tell whoever waits for the delivery how it stands, to be written with it in one commit."""

    def report_elsewhere(self, delivery: Delivery) -> None:
        """Tell it where there is no such row; called once the delivery is committed."""

    def has_follow_up(self, delivery: Delivery) -> bool:
        """Whether something follows the delivery's end."""


class _Nobody:
    """No task queue is installed: the sweep of one that is will find the delivery."""

    def ring(self, deliveries: Sequence[Delivery]) -> None:
        logger.warning("No task queue is installed; %d deliveries wait.", len(deliveries))

    def call_for_sweep(self) -> None:
        pass

    def report(self, delivery: Delivery) -> Sequence[Row]:
        return ()

    def report_elsewhere(self, delivery: Delivery) -> None:
        pass

    def has_follow_up(self, delivery: Delivery) -> bool:
        return False


_installed: Doorbell = _Nobody()
_waiting = threading.local()


def install(doorbell: Doorbell) -> None:
    """Make ``doorbell`` the one that is used."""
    global _installed  # one per process, set when the app starts
    _installed = doorbell


def installed() -> Doorbell:
    """The doorbell in use."""
    return _installed


def ring(deliveries: Sequence[Delivery]) -> int | None:
    """Ring now and return for how many; None when none may have been heard. A failure is logged, for the sweep rings
    again.
    """
    if not deliveries:
        return 0
    with recursion.within_wake_up():
        try:
            _installed.ring(deliveries)
        except PartlyHeard as partly:
            return len(deliveries) - len(partly.unheard)
        except Exception as error:  # the mail is safe in the database, whatever the broker says
            why = type(error).__name__
            logger.warning("Could not ring for %d deliveries (%s); the sweep will.", len(deliveries), why)
            return None
    return len(deliveries)


def ring_on_commit(*deliveries: Delivery, using: str) -> None:
    """Ring once the transaction is committed, together with everything else submitted in it.

    Each call registers a hook, so that a savepoint that is rolled back takes none of the others with it; the
    first hook to run rings for all. A delivery that was rolled back may be rung for as well: nobody will find it.
    """
    waiting: dict[str, list[Delivery]] = _waiting.__dict__
    if not transaction.get_connection(using).in_atomic_block:
        waiting.pop(using, None)
    waiting.setdefault(using, []).extend(deliveries)
    transaction.on_commit(lambda: ring(waiting.pop(using, [])), using=using)


def call_for_sweep(*, using: str) -> None:
    """Have what is due rung for once the transaction is committed, and not at the next sweep."""
    after_commit("call for a sweep, the next of which comes by itself", _installed.call_for_sweep, using=using)
