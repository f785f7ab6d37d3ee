"""Up to where a dispatcher has seen all that was due, so that its next claim need not look there again.

PostgreSQL keeps the entries of its indexes for what has gone while any transaction is open that may see it, be that
another's report of ten minutes. A claim would walk past all of them each time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence

#: Seconds after which a claim looks at everything once more. By then is found what came to lie below the mark: what was
#: committed late, given back, made due earlier, or locked by another when it was looked at. A dispatcher's stay, with
#: which its mark ends, mostly is shorter.
DROPPED_AFTER = 1.0

#: Seconds by which the mark stays behind the moment of a claim: most transactions are committed within them, and what
#: they insert has the time of the statement.
BEHIND = 0.5

#: Seconds that are lost where a time becomes a floating-point number, and more.
_SLACK = 0.001

#: Below everything.
NOTHING = float("-inf")


class LowWaterMark:
    """That of one stay: of each part of a queue that is ordered by itself, a time by the clock of the database.

    Times are in seconds since the epoch.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._marks: dict[Hashable, float] = {}
        self._dropped_at = NOTHING

    def of(self, parts: Sequence[Hashable]) -> list[float]:
        """From where on a claim is to look in each of these parts: once a second from the beginning."""
        if self._clock() - self._dropped_at >= DROPPED_AFTER:
            self.drop()
        return [self._marks.get(part, NOTHING) for part in parts]

    def drop(self) -> None:
        """Have the next claim look at everything."""
        self._marks.clear()
        self._dropped_at = self._clock()

    def saw(self, parts: Sequence[Hashable], lowest: Mapping[int, float], *, moment: float, all_: bool) -> None:
        """Raise the mark by what a claim at this moment has seen of the parts.

        ``lowest`` is, by the place of the part, the time of the first mail that it found there. Where it found none
        there was none, if it has looked at ``all_`` parts to their end; otherwise it may not have looked there.
        """
        highest = moment - BEHIND
        for place, part in enumerate(parts):
            if place in lowest:
                self._marks[part] = min(lowest[place] - _SLACK, highest)
            elif all_:
                self._marks[part] = highest
