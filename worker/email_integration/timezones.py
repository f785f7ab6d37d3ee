"""Times with USE_TZ and without.

Django stores aware datetimes with it; without it, naive ones in TIME_ZONE.
"""

from __future__ import annotations

import datetime as dt

from django.conf import settings
from django.utils import timezone

#: At the ends of the calendar, no other time zone could show a moment.
_MARGIN = dt.timedelta(days=2)


def as_stored(moment: dt.datetime) -> dt.datetime:
    """Return the same moment in the form of ``timezone.now()``, which is the one that the database takes.

    A naive ``moment`` is in the current time zone, or in TIME_ZONE without USE_TZ. Raises ``OverflowError`` at the
    ends of the calendar.
    """
    _ = moment - _MARGIN, moment + _MARGIN
    if settings.USE_TZ:
        return timezone.make_aware(moment) if timezone.is_naive(moment) else moment
    return timezone.make_naive(moment, timezone.get_default_timezone()) if timezone.is_aware(moment) else moment


def aware(moment: dt.datetime) -> dt.datetime:
    """Return a moment of the database with its offset, as it leaves this process."""
    return timezone.make_aware(moment, timezone.get_default_timezone()) if timezone.is_naive(moment) else moment


def in_utc(moment: dt.datetime) -> dt.datetime:
    """Return a moment of the database in UTC."""
    return aware(moment).astimezone(dt.UTC)


def local_time(moment: dt.datetime) -> dt.datetime:
    """Return a moment of the database as people read it: in the current time zone, or in TIME_ZONE without USE_TZ."""
    zone = timezone.get_current_timezone() if settings.USE_TZ else timezone.get_default_timezone()
    return timezone.localtime(aware(moment), zone)


def today() -> dt.date:
    """Return the date of now, as people read it."""
    return local_time(timezone.now()).date()


def changes_clocks(zone: dt.tzinfo) -> bool:
    """Return whether the clocks of ``zone`` are changed within a year from now."""
    now = dt.datetime.now(dt.UTC)
    return len({(now + dt.timedelta(days=day)).astimezone(zone).utcoffset() for day in range(366)}) > 1
