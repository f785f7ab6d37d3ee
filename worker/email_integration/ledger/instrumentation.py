"""The interface between deliveries and metrics or tracing. Without an installed observer, nothing is measured."""

from __future__ import annotations

from collections.abc import Sequence

from email_integration.models import Delivery
from email_integration.smtp import Relay, SessionObserver

from .records import Change, Ended


class Observer(SessionObserver):
    """An observer that does nothing. As in a ``SessionObserver``, no method may raise or take long."""

    def submitting(self, delivery: Delivery) -> None:
        """A mail is about to be stored. The method may set its ``traceparent``."""

    def tried(self, delivery: Delivery, seconds: float) -> None:
        """An attempt in this thread has ended after ``seconds`` seconds. Another thread may record and report it."""

    def attempted(self, ended: Ended) -> None:
        """An attempt is recorded. Its delivery has the recorded values."""

    def recorded(self, changes: Sequence[Change]) -> None:
        """These changes are recorded, in one commit."""

    def sweep_ended(self, seconds: float, woken: int) -> None:
        """A sweep took ``seconds`` seconds and woke ``woken`` queues."""


class _Several(Observer):
    """An observer that calls several observers."""

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
    """Report to ``observer`` in this process and in its forked children. None removes the observer."""
    global _observer  # the one observer of this process
    _observer = observer or _NONE


def add(observer: Observer) -> None:
    """Report also to ``observer`` in this process and in its forked children."""
    install(observer if _observer is _NONE else _Several(_observer, observer))


def installed() -> Observer:
    """Return the observer to report to."""
    return _observer
