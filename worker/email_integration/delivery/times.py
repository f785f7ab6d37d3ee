"""How long the sweep waits between two rings."""

from __future__ import annotations

import datetime as dt

from django.conf import settings
from django.utils import timezone

from email_integration import conf


def seconds(value: float) -> dt.timedelta:
    return dt.timedelta(seconds=value)


def as_stored(moment: dt.datetime) -> dt.datetime:
    """Return the same moment as ``timezone.now()`` gives it: aware with USE_TZ, else naive in Django's time zone.

    A naive ``moment`` is in the current time zone. Django's databases take no aware one without USE_TZ.
    """
    if settings.USE_TZ:
        return timezone.make_aware(moment) if timezone.is_naive(moment) else moment
    return timezone.make_naive(moment, timezone.get_default_timezone()) if timezone.is_aware(moment) else moment


#: A delivery is rung for at least this often, in seconds, however often it was before.
_LONGEST_PAUSE = 900.0


def pause(rings: int) -> float:
    """How many seconds to wait after the ring that follows ``rings`` others in vain."""
    return float(min(conf.get("RING_AFTER") * 2.0 ** min(rings, 20), _LONGEST_PAUSE))


def first_ring(due_at: dt.datetime, expires_at: dt.datetime, now: dt.datetime) -> dt.datetime:
    """When the sweep looks at a delivery first: when it is due; if that is now, when the ring of now seems lost."""
    return min(due_at, expires_at) if due_at > now else now + seconds(conf.get("RING_AFTER"))
