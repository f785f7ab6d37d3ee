"""The numbers of long periods: those of past days are counted once, and then kept in the shared cache."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from email_integration.caching import shared_cache
from email_integration.timezones import in_utc

from . import statistics
from .intervals import Interval, Period
from .statistics import Flow, Flows

#: How long an interval must be over before its numbers are kept: an attempt may be recorded late.
_SETTLED = dt.timedelta(hours=1)

#: Seconds for which they are kept. A mail of that time may be sent again, or deleted, by a person.
_KEPT = 24 * 3600


def flows(period: Period, intervals: Sequence[Interval], now: dt.datetime) -> list[Flows]:
    """Return the numbers of each interval, as ``statistics.flows`` counts them."""
    if not period.has_days:
        return statistics.flows(intervals)
    keys = {each: _key(each) for each in intervals if each.end <= now - _SETTLED}
    kept = {each: _unpacked(value) for each, value in _read(keys).items()}
    missing = [each for each in intervals if each not in kept]
    counted = dict(zip(missing, statistics.flows(missing), strict=True))
    _write({keys[each]: _packed(found) for each, found in counted.items() if each in keys})
    found = kept | counted
    return [found[each] for each in intervals]


def _key(interval: Interval) -> str:
    return f"email_integration:counts:1:{in_utc(interval.start):%Y%m%d%H%M}:{in_utc(interval.end):%Y%m%d%H%M}"


def _read(keys: Mapping[Interval, str]) -> dict[Interval, Any]:
    try:
        with shared_cache() as cache:
            found = cache.get_many(keys.values())
    except Exception:  # each cache backend has its own errors; the numbers are then counted each time
        return {}
    return {interval: found[key] for interval, key in keys.items() if key in found}


def _write(values: dict[str, Any]) -> None:
    with contextlib.suppress(Exception), shared_cache() as cache:
        if values:
            cache.set_many(values, _KEPT)


def _packed(found: Flows) -> list[tuple[str, str, int, int, int]]:
    return [(*group, flow.accepted, flow.deferred, flow.failed) for group, flow in found.items()]


def _unpacked(rows: Any) -> Flows:
    return {
        (priority, configuration): Flow(accepted=accepted, deferred=deferred, failed=failed)
        for priority, configuration, accepted, deferred, failed in rows
    }
