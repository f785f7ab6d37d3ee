"""The interface between deliveries and whoever measures them; nobody does unless somebody is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from email_integration.smtp import Watch

if TYPE_CHECKING:
    from .ledger import Ended


class Observer(Watch):
    """Does nothing with what it is told. As of a ``Watch``, none of this may raise, or take long."""

    def attempted(self, ended: Ended) -> None:
        """An attempt is recorded; the delivery is as it was recorded."""

    def swept(self, seconds: float, rung: int) -> None:
        """A sweep took so many seconds, and rang for so many deliveries."""


_NOBODY = Observer()
_observer = _NOBODY


def install(observer: Observer | None) -> None:
    """Have this process, and those that are forked from it, tell ``observer``; None for nobody."""
    global _observer  # the one observer of this process
    _observer = observer or _NOBODY


def installed() -> Observer:
    """Whom to tell."""
    return _observer
