"""When to try again: a pure function."""

from __future__ import annotations


def backoff(attempts: int, *, first: float, longest: float, chance: float, hint: float | None = None) -> float:
    """Return how many seconds to wait after the ``attempts``-th attempt (1, 2, …) failed for now.

    Exponential between ``first`` and ``longest`` seconds, with full jitter: ``chance`` (0 to 1) says where between
    nothing and the whole. A server's ``hint`` in seconds is honoured up to ``longest``, and spread by a tenth so that
    not all come back at once.
    """
    if hint is not None:
        return min(hint, longest) * (1 + 0.1 * chance)
    return chance * min(longest, first * 2.0 ** min(max(attempts - 1, 0), 30))
