"""The interface between deliveries and whoever measures or traces them; nobody does unless somebody is installed."""

from __future__ import annotations

from collections.abc import Sequence

from email_integration.models import Delivery
from email_integration.smtp import Relay, Watch

from .records import Change, Ended


class Observer(Watch):
    """Does nothing with what it is told. As of a ``Watch``, none of this may raise, or take long."""

    def submitting(self, delivery: Delivery) -> None:
        """A mail is about to be stored; its ``traceparent`` may be set."""

    def tried(self, delivery: Delivery, seconds: float) -> None:
        """An attempt of this thread has ended, which took so many seconds. Another may record it, and tell of that."""

    def attempted(self, ended: Ended) -> None:
        """An attempt is recorded; the delivery is as it was recorded."""

    def recorded(self, changes: Sequence[Change]) -> None:
        """These are recorded, in one commit."""

    def swept(self, seconds: float, woken: int) -> None:
        """A sweep took so many seconds, and woke so many queues."""


class _Several(Observer):
    """Tells each of them."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def submitting(self, delivery: Delivery) -> None:
        for observer in self._observers:
            observer.submitting(delivery)

    def tried(self, delivery: Delivery, seconds: float) -> None:
        for observer in self._observers:
            observer.tried(delivery, seconds)

    def attempted(self, ended: Ended) -> None:
        for observer in self._observers:
            observer.attempted(ended)

    def recorded(self, changes: Sequence[Change]) -> None:
        for observer in self._observers:
            observer.recorded(changes)

    def swept(self, seconds: float, woken: int) -> None:
        for observer in self._observers:
            observer.swept(seconds, woken)

    def opened(self, relay: Relay, seconds: float, *, succeeded: bool) -> None:
        for observer in self._observers:
            observer.opened(relay, seconds, succeeded=succeeded)

    def transacted(self, relay: Relay, seconds: float) -> None:
        for observer in self._observers:
            observer.transacted(relay, seconds)

    def holds(self, *, idle: int, lent: int) -> None:
        for observer in self._observers:
            observer.holds(idle=idle, lent=lent)


_NOBODY = Observer()
_observer = _NOBODY


def install(observer: Observer | None) -> None:
    """Have this process, and those that are forked from it, tell ``observer``; None for nobody."""
    global _observer  # the one observer of this process
    _observer = observer or _NOBODY


def add(observer: Observer) -> None:
    """Have this process, and those that are forked from it, tell ``observer`` too."""
    install(observer if _observer is _NOBODY else _Several(_observer, observer))


def installed() -> Observer:
    """Whom to tell."""
    return _observer
