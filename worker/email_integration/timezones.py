"""Moments with USE_TZ and without: Django stores aware datetimes with it, and naive ones in TIME_ZONE without."""

from __future__ import annotations

import datetime as dt

from django.conf import settings
from django.utils import timezone


def as_stored(moment: dt.datetime) -> dt.datetime:
    """Return the same moment in the form of ``timezone.now()``, which is the one that the database takes.

    A naive ``moment`` is in the current time zone. Raises ``OverflowError`` at the ends of the calendar.
    """
    if settings.USE_TZ:
        return timezone.make_aware(moment) if timezone.is_naive(moment) else moment
    return timezone.make_naive(moment, timezone.get_default_timezone()) if timezone.is_aware(moment) else moment


def local_time(moment: dt.datetime) -> dt.datetime:
    """Return the same moment as people read it: aware, in the current time zone, or in TIME_ZONE without USE_TZ."""
    if settings.USE_TZ:
        return timezone.localtime(moment)
    zone = timezone.get_default_timezone()
    return timezone.localtime(timezone.make_aware(moment, zone) if timezone.is_naive(moment) else moment, zone)


def today() -> dt.date:
    """Return the date of now, as people read it."""
    return local_time(timezone.now()).date()


def changes_clocks(zone: dt.tzinfo) -> bool:
    """Return whether the clocks of ``zone`` are changed within a year from now."""
    now = dt.datetime.now(dt.UTC)
    return len({(now + dt.timedelta(days=day)).astimezone(zone).utcoffset() for day in range(366)}) > 1
