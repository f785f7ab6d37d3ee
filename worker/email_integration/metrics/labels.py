"""What a metric is told apart by: always one of few words, for each is a time series that is kept for months."""

from __future__ import annotations

from email_integration.models import Priority
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Outcome

#: What stands for everything beyond the bounds.
OTHER = "other"

#: So many configurations have a name of their own in one process.
CONFIGURATIONS = 50

#: The reason of what was accepted.
ACCEPTED = "accepted"

REASONS = frozenset((*(cause.value for cause in Cause), ACCEPTED))

PRIORITIES = frozenset((*Priority.values, OTHER))


def reason(outcome: Outcome) -> str:
    """The class of an outcome's reason, one of ``REASONS``: its cause, or that it was accepted."""
    return str(outcome.cause) or ACCEPTED


def priority(name: str) -> str:
    """One of ``PRIORITIES``, whatever somebody has made of it in the database."""
    return name if name in PRIORITIES else OTHER


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
