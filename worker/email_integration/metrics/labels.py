"""The labels of metrics. Each has few values, because every value is a time series that is kept for months."""

from __future__ import annotations

from email_integration.models import Priority
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Outcome

#: Replaces every value outside the limits.
OTHER = "other"

#: Limit on the configurations with a separate name in one process.
CONFIGURATIONS = 50

#: The reason of an accepted mail.
ACCEPTED = "accepted"

REASONS = frozenset((*(cause.value for cause in Cause), ACCEPTED))

PRIORITIES = frozenset((*Priority.values, OTHER))


def reason(outcome: Outcome) -> str:
    """Return the reason of an outcome, one of ``REASONS``: its cause, or that it was accepted."""
    return str(outcome.cause) or ACCEPTED


def priority(name: str) -> str:
    """Return one of ``PRIORITIES``, even if the value was damaged in the database."""
    return name if name in PRIORITIES else OTHER


class Names:
    """The names of configurations, up to a limit.

    ``_known`` only grows and is the only state. At worst, two threads exceed the limit by one.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()

    def __call__(self, name: str) -> str:
        """Return the name; ``OTHER`` above the limit; 'none' for an empty name."""
        if name not in self._known:
            if len(self._known) >= CONFIGURATIONS:
                return OTHER
            self._known.add(name)
        return name or "none"
