"""Marks of the index entries that a dispatcher has already seen, so its next claim can skip them.

PostgreSQL keeps the index entries of removed rows while any transaction is open that may see them, such as a report
that runs for ten minutes. Without a mark, each claim would read all of these entries.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence

#: Seconds after which a claim reads all entries again. It then finds the mail below the mark: mail that was committed
#: late, given back, made due earlier, or locked by another process before. A mark ends with its dispatcher's stay,
#: which is usually shorter.
DROPPED_AFTER = 1.0

#: Seconds by which the mark stays behind the time of a claim. Most transactions commit within this time, and the rows
#: that they insert have the time of the statement.
BEHIND = 0.5

#: Seconds that exceed the rounding error of a time as a floating-point number.
_SLACK = 0.001

#: Lower than every time.
NOTHING = float("-inf")


class LowWaterMark:
    """The mark of one stay: a time by the database's clock for each separately ordered part of a queue.

    Times are in seconds since the epoch. ``clock`` is a monotonic clock in seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._marks: dict[Hashable, float] = {}
        self._dropped_at = NOTHING

    def of(self, parts: Sequence[Hashable]) -> list[float]:
        """Return for each of these parts the time from which a claim must read it.

        Once a second this is the beginning.
        """
        if self._clock() - self._dropped_at >= DROPPED_AFTER:
            self.drop()
        return [self._marks.get(part, NOTHING) for part in parts]

    def drop(self) -> None:
        """Make the next claim read all entries."""
        self._marks.clear()
        self._dropped_at = self._clock()

    def saw(self, parts: Sequence[Hashable], lowest: Mapping[int, float], *, moment: float, all_: bool) -> None:
        """Raise the marks of ``parts`` after a claim at ``moment``.

        ``lowest`` maps the index of a part to the time of the first mail that the claim found there. If it found none
        in a part and has read ``all_`` parts to their end, the part is empty; otherwise the claim may not have read it.
        """
        highest = moment - BEHIND
        for place, part in enumerate(parts):
            if place in lowest:
                self._marks[part] = min(lowest[place] - _SLACK, highest)
            elif all_:
                self._marks[part] = highest
