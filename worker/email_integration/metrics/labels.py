"""What a figure is told apart by: always one of few words, for each is a time series that is kept for months."""

from __future__ import annotations

from email_integration.models import Lane
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Accepted, InDoubt, Outcome

#: What stands for everything beyond the bounds.
OTHER = "other"

#: So many configurations have a name of their own in one process.
CONFIGURATIONS = 50

_CAUSES = {cause.value: cause.name.lower() for cause in Cause}

#: What is not the server's reply: the connection, or something of our own.
_WITHOUT_REPLY = ("accepted", "refused", "in_doubt", "here", "not_connected", "connection_lost")

REASONS = frozenset((*_CAUSES.values(), *_WITHOUT_REPLY))

LANES = frozenset((*Lane.values, OTHER))


def reason(outcome: Outcome) -> str:
    """The class of an outcome's reason, one of ``REASONS``: the cause in the server's reply, or what stands for one."""
    if isinstance(outcome, Accepted):
        return "accepted"
    if outcome.code is not None:
        # As 'causes.reason' says it: the words, and the codes in brackets.
        return _CAUSES.get(outcome.reason.rpartition(" (")[0], "refused")
    if isinstance(outcome, InDoubt):
        return "in_doubt"
    if outcome.phase is None:
        return "here"  # a pause, no configuration, a recipient that was withheld
    found = _CAUSES.get(outcome.reason)
    return found or ("not_connected" if outcome.phase.before_mail else "connection_lost")


def lane(name: str) -> str:
    """One of ``LANES``, whatever somebody has made of it in the database."""
    return name if name in LANES else OTHER


class Names:
    """The names of configurations, of which only so many are kept apart.

    ``_known``, which only grows, is all its state: at worst two threads let one more in.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()

    def __call__(self, name: str) -> str:
        """The name, or ``OTHER`` once there are too many; 'none' for none."""
        if name not in self._known:
            if len(self._known) >= CONFIGURATIONS:
                return OTHER
            self._known.add(name)
        return name or "none"
