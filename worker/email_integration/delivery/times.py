"""How long the sweep waits between two rings."""

from __future__ import annotations

import datetime as dt

from email_integration import conf


def seconds(value: float) -> dt.timedelta:
    return dt.timedelta(seconds=value)


#: A delivery is rung for at least this often, in seconds, however often it was before.
_LONGEST_PAUSE = 900.0


def pause(rings: int) -> float:
    """How many seconds to wait after the ring that follows ``rings`` others in vain."""
    return float(min(conf.get("RING_AFTER") * 2.0 ** min(rings, 20), _LONGEST_PAUSE))


def first_ring(due_at: dt.datetime, expires_at: dt.datetime, now: dt.datetime) -> dt.datetime:
    """When the sweep looks at a delivery first: when it is due; if that is now, when the ring of now seems lost."""
    return min(due_at, expires_at) if due_at > now else now + seconds(conf.get("RING_AFTER"))
