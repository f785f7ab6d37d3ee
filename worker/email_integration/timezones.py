"""Conversions of times with and without USE_TZ.

With USE_TZ, Django stores aware datetimes; without it, naive datetimes in TIME_ZONE.
"""

from __future__ import annotations

import datetime as dt

from django.conf import settings
from django.utils import timezone
from django.utils.formats import date_format

#: A moment this close to the ends of the calendar cannot be shown in every time zone.
_MARGIN = dt.timedelta(days=2)


def as_stored(moment: dt.datetime) -> dt.datetime:
    """Return the same moment in the form of ``timezone.now()``, which the database accepts.

    A naive ``moment`` is in the current time zone, or in TIME_ZONE without USE_TZ. Raises ``OverflowError`` at the ends
    of the calendar.
    """
    _ = moment - _MARGIN, moment + _MARGIN
    if settings.USE_TZ:
        return timezone.make_aware(moment) if timezone.is_naive(moment) else moment
    return timezone.make_naive(moment, timezone.get_default_timezone()) if timezone.is_aware(moment) else moment


def aware(moment: dt.datetime) -> dt.datetime:
    """Return a moment from the database with its UTC offset, for use outside this process."""
    return timezone.make_aware(moment, timezone.get_default_timezone()) if timezone.is_naive(moment) else moment


def in_utc(moment: dt.datetime) -> dt.datetime:
    """Return a moment from the database in UTC."""
    return aware(moment).astimezone(dt.UTC)


def local_time(moment: dt.datetime) -> dt.datetime:
    """Return a moment from the database for people: in the current time zone, or in TIME_ZONE without USE_TZ."""
    zone = timezone.get_current_timezone() if settings.USE_TZ else timezone.get_default_timezone()
    return timezone.localtime(aware(moment), zone)


def exactly(moment: dt.datetime) -> str:
    """Return a moment from the database as every page shows it: the date, the time with seconds, and the zone."""
    local = local_time(moment)
    return f"{date_format(local, 'DATE_FORMAT')}, {date_format(local, 'H:i:s T')}"


def today() -> dt.date:
    """Return today's date in the same time zone as ``local_time``."""
    return local_time(timezone.now()).date()


def changes_clocks(zone: dt.tzinfo) -> bool:
    """Return whether the UTC offset of ``zone`` changes within a year from now."""
    now = dt.datetime.now(dt.UTC)
    return len({(now + dt.timedelta(days=day)).astimezone(zone).utcoffset() for day in range(366)}) > 1
