"""The time of the next try: pure functions for every wait."""

from __future__ import annotations

import datetime as dt
import math
import re

#: Maximum of a server's hint, in seconds: a week.
LONGEST_HINT = 7 * 86400.0

_AMOUNT = re.compile(
    r"(\d{1,9}(?:\.\d{1,3})?)\s*(s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)?|h(?:(?:ou)?rs?)?|d(?:ays?)?)(?![a-z])", re.I
)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_PERIOD = re.compile(rf"(?<![\w.:@-]){_AMOUNT.pattern}(?:[\s,]*(?:and\s+)?{_AMOUNT.pattern})*", re.I)
_INTRODUCED = r"\b(?:in|after|for|wait|retry|delay(?:ed)?(?: of| by)?)[\s:=]+(?:at least |about |another )?"
_TRY_IN = re.compile(_INTRODUCED + _PERIOD.pattern, re.I)
_TRY_IN_CLOCK = re.compile(_INTRODUCED + r"(\d{1,3}):([0-5]?\d):([0-5]?\d)(?![\d:])", re.I | re.ASCII)
#: Words of a server that ask for a wait, for a time without 'in' or 'after'.
_ASKS = re.compile(r"again|retry|come back|gr[ea]y|delay|wait|later|defer", re.I)


def doubled(first: float, times: int, *, longest: float = math.inf) -> float:
    """Return ``first`` seconds, doubled ``times`` times (at most 30), and no more than ``longest``.

    The waits between attempts, between probes of a server at fault, and between tries to record or to notify of an
    alert grow in this way.
    """
    return float(min(longest, first * 2.0 ** min(times, 30)))


def backoff(attempts: int, *, first: float, longest: float, chance: float, hint: float | None = None) -> float:
    """Return how many seconds to wait after the ``attempts``-th attempt (1, 2, …) failed temporarily.

    The wait is exponential between ``first`` and ``longest`` seconds, with full jitter: ``chance`` (0 to 1) selects a
    point between nothing and the whole. A ``hint`` in seconds is honoured up to ``longest``, and a tenth is added at
    most, so that not all mails return at once; a hint of 0 means at once.
    """
    if hint is not None:
        return min(hint, longest) * (1 + 0.1 * chance)
    return chance * doubled(first, max(attempts - 1, 0), longest=longest)


def probe_wait(failures: int, *, first: float, longest: float, longest_hint: float, hint: float | None = None) -> float:
    """Return how many seconds after the ``failures``-th failure (1, 2, …) in a row a server at fault may be probed.

    The wait is exponential between ``first`` and ``longest`` seconds, without jitter: there is one probe for all
    processes. It is at least the server's ``hint`` in seconds, which is honoured up to ``longest_hint``.
    """
    return max(min(hint or 0.0, longest_hint), doubled(first, failures - 1, longest=longest))


def wait_for_probe(longest: float, *, chance: float) -> float:
    """Return how many seconds a mail is deferred for a server that is probed at least every ``longest`` seconds.

    The wait is longer than the time until the next probe, whose success makes the mail due at once. ``chance`` (0 to 1)
    spreads it, up to twice that time, so that not all mails return at once.
    """
    return longest * (1 + chance)


def hint(text: str) -> float | None:
    """Return how many seconds a server asks to wait, by the words of its reply; None when it gives no time.

    'Try again in 5 minutes', 'come back in 00:05:00', 'Greylisted for 60 seconds', 'wait 1 hour 30 min', 'delay 300s'.
    The result is never 0, which would mean at once, and never longer than ``LONGEST_HINT``.
    """
    waits = [_seconds_of_clock(*found.groups()) for found in _TRY_IN_CLOCK.finditer(text)]
    waits += [_seconds(found[0]) for found in _TRY_IN.finditer(text)]
    if not waits and _ASKS.search(text):
        waits = [_seconds(found[0]) for found in _PERIOD.finditer(text)]
    return min(max(waits, default=0.0), LONGEST_HINT) or None


def _seconds(period: str) -> float:
    return sum(float(number) * _SECONDS[unit[0].lower()] for number, unit in _AMOUNT.findall(period))


def _seconds_of_clock(hours: str, minutes: str, seconds: str) -> float:
    return float(int(hours) * 3600 + int(minutes) * 60 + int(seconds))


def seconds(value: float) -> dt.timedelta:
    """Return ``value`` seconds as a ``timedelta``."""
    return dt.timedelta(seconds=value)
