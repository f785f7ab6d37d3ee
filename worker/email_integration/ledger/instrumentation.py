"""The interface between deliveries and what measures or traces them; nothing does unless an observer is installed."""

from __future__ import annotations

from collections.abc import Sequence

from email_integration.models import Delivery
from email_integration.smtp import Relay, SessionObserver

from .records import Change, Ended


class Observer(SessionObserver):
    """Does nothing. As of a ``SessionObserver``, no method may raise, or take long."""

    def submitting(self, delivery: Delivery) -> None:
        """A mail is about to be stored; its ``traceparent`` may be set."""

    def tried(self, delivery: Delivery, seconds: float) -> None:
        """An attempt of this thread has ended, which took so many seconds. Another may record it, and report that."""

    def attempted(self, ended: Ended) -> None:
        """An attempt is recorded; the delivery is as it was recorded."""

    def recorded(self, changes: Sequence[Change]) -> None:
        """These are recorded, in one commit."""

    def sweep_ended(self, seconds: float, woken: int) -> None:
        """A sweep took so many seconds, and woke so many queues."""


class _Several(Observer):
    """Calls each of them."""

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

    def sweep_ended(self, seconds: float, woken: int) -> None:
        for observer in self._observers:
            observer.sweep_ended(seconds, woken)

    def opened(self, relay: Relay, seconds: float, *, succeeded: bool) -> None:
        for observer in self._observers:
            observer.opened(relay, seconds, succeeded=succeeded)

    def transacted(self, relay: Relay, seconds: float) -> None:
        for observer in self._observers:
            observer.transacted(relay, seconds)

    def holds(self, *, idle: int, lent: int) -> None:
        for observer in self._observers:
            observer.holds(idle=idle, lent=lent)


_NONE = Observer()
_observer = _NONE


def install(observer: Observer | None) -> None:
    """Have this process, and those that are forked from it, report to ``observer``; None for none."""
    global _observer  # the one observer of this process
    _observer = observer or _NONE


def add(observer: Observer) -> None:
    """Have this process, and those that are forked from it, report to ``observer`` too."""
    install(observer if _observer is _NONE else _Several(_observer, observer))


def installed() -> Observer:
    """The observer to report to."""
    return _observer
