"""The circuit breaker of a relay: while it is open no process connects, except for one half-open probe at a time.

It is read only before a new session is opened, so it costs nothing while sessions last. A configuration with corrected
settings is another relay, with a separate circuit breaker.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
from typing import Protocol

from django.db import transaction
from django.db.models import F
from django.utils.crypto import salted_hmac

from email_integration import conf
from email_integration.models import CircuitBreaker, DatabaseTime
from email_integration.outcomes import schedule
from email_integration.outcomes.causes import ENDS_BY_ITSELF, Cause
from email_integration.smtp import Relay

logger = logging.getLogger(__name__)

#: Maximum time between probes, in seconds, of a server that does not answer, is not available, or limits how much we
#: send: trying costs nothing. For a server that has refused us, the time grows to BREAKER_PROBE_MAX: providers lock
#: accounts after many wrong logins.
_LONGEST_WITHOUT_SERVICE = 45.0

#: A server that limits how much we send is first tried again after one second: many count the mails of each second.
_LIMITS = frozenset({Cause.LIMIT, Cause.ACCOUNT_RATE})
_FIRST_AT_LIMIT = 1.0


class BreakerOpen(Exception):
    """The circuit breaker of the relay is open, and it is not yet time for a probe."""

    def __init__(self, relay: Relay, code: int | None, cause: str, reason: str) -> None:
        super().__init__(relay, code, cause, reason)
        self.relay = relay
        self.code = code
        self.cause = cause
        self.reason = reason


def ask(relay: Relay) -> bool:
    """Check the breaker before connecting to ``relay``; return True for a half-open probe, False when it is closed.

    The caller ends a probe by ``trip``, ``reset`` or ``release_probe``. Raises ``BreakerOpen``.
    """
    rows = CircuitBreaker.objects.filter(pk=key(relay))
    found = rows.first()
    if found is None:
        return False
    due = rows.filter(probe_at__lte=DatabaseTime())
    if due.exists():
        if in_transaction():
            return True  # a lock for a single probe would make all others wait until the commit
        # No other probe is made meanwhile: this time is longer than an attempt, up to the reply to its final dot.
        if due.update(probe_at=DatabaseTime(ahead=2 * relay.timeout + conf.get("LEASE"))):
            return True
    raise BreakerOpen(relay, found.code, found.cause, found.reason)


def due() -> frozenset[str]:
    """Return the keys of the open breakers whose relays may be probed now."""
    return frozenset(CircuitBreaker.objects.filter(probe_at__lte=DatabaseTime()).values_list("pk", flat=True))


def in_transaction() -> bool:
    """Return whether a caller of the direct backend has an open transaction on this connection."""
    return bool(transaction.get_connection(CircuitBreaker.objects.db).in_atomic_block)


class RelayFailure(Protocol):
    """A failed attempt that is the relay's fault; ``retry_in`` is the server's hint in seconds."""

    @property
    def code(self) -> int | None: ...

    @property
    def cause(self) -> str: ...

    @property
    def reason(self) -> str: ...

    @property
    def retry_in(self) -> float | None: ...


def trip(relay: Relay, failure: RelayFailure, *, probing: bool) -> float:
    """Open the breaker, or keep it open after a failed probe; return the seconds until the next probe may be made."""
    said = {"code": failure.code, "cause": str(failure.cause), "reason": failure.reason[:255]}
    wait = probe_wait(1, failure.cause, hint=failure.retry_in)
    times = {"opened_at": DatabaseTime(), "probe_at": DatabaseTime(ahead=wait)}
    row, created = CircuitBreaker.objects.get_or_create(
        pk=key(relay), defaults={"smtp_config": relay.name, "host": relay.host, **times, **said}
    )
    if created:
        extra = {
            "configuration": relay.name,
            "reply_code": failure.code,
            "cause": said["cause"],
            "reason": failure.reason,
        }
        logger.warning("The circuit breaker of %s is open: %s", relay.name, failure.reason, extra=extra)
    elif probing:
        wait = probe_wait(row.failures + 1, failure.cause, hint=failure.retry_in)
        CircuitBreaker.objects.filter(pk=row.pk).update(
            failures=F("failures") + 1, probe_at=DatabaseTime(ahead=wait), **said
        )
    else:
        _, wait = next_probe(relay) or (None, 0.0)
    return wait


def release_probe(relay: Relay) -> None:
    """Let another mail probe at once, because this probe had no result."""
    CircuitBreaker.objects.filter(pk=key(relay)).update(probe_at=DatabaseTime())


def probe_now(*, only: Relay | None = None) -> int:
    """Let one mail probe at once, and return how many breakers are open: of all relays, or ``only`` of one.

    A breaker stays open until its relay accepts a mail, so the time since when it is at fault stays. Its backoff begins
    again.
    """
    rows = CircuitBreaker.objects.all() if only is None else CircuitBreaker.objects.filter(pk=key(only))
    return rows.update(failures=0, probe_at=DatabaseTime())


def reset(relay: Relay) -> bool:
    """Close the breaker; return False when it was closed already."""
    was_open = bool(CircuitBreaker.objects.filter(pk=key(relay)).delete()[0])
    if was_open:
        logger.info("The circuit breaker of %s is closed again.", relay.name, extra={"configuration": relay.name})
    return was_open


def forget_former(relay: Relay) -> bool:
    """Delete the breakers of ``relay`` with an earlier password whose probe is due; return False when there are none.

    Only a password that is stored elsewhere can change without a change of the configuration.
    """
    former = CircuitBreaker.objects.filter(smtp_config=relay.name, probe_at__lte=DatabaseTime()).exclude(pk=key(relay))
    return bool(former.delete()[0])


def reset_all(*, but: Relay | None = None) -> None:
    """Close every breaker, because the settings have changed, except the breaker of the relay ``but``."""
    rows = CircuitBreaker.objects.all()
    (rows if but is None else rows.exclude(pk=key(but))).delete()


def is_open(relay: Relay, *, by: Cause | None = None) -> bool:
    """Return whether the breaker of ``relay`` is open now; with ``by``, whether it is open for that cause."""
    rows = CircuitBreaker.objects.filter(pk=key(relay))
    return (rows if by is None else rows.filter(cause=by.value)).exists()


def next_probe(relay: Relay) -> tuple[dt.datetime, float] | None:
    """Return the time when ``relay`` may be probed, and the seconds until then (0: now); None for a closed breaker."""
    found = CircuitBreaker.objects.filter(pk=key(relay)).annotate(now=DatabaseTime()).first()
    return (found.probe_at, max(0.0, (found.probe_at - found.now).total_seconds())) if found else None


def key(relay: Relay, *, of_version: bool = False) -> str:
    """Return a digest of all the settings of ``relay``; the password cannot be derived from it.

    A configuration that is saved unchanged has a new version and the same key. With ``of_version``, its key changes.
    """
    relay = relay if of_version else dataclasses.replace(relay, version="")
    settings = tuple(getattr(relay, field.name) for field in dataclasses.fields(relay) if field.compare)
    return salted_hmac("email_integration.breaker", repr(settings), algorithm="sha256").hexdigest()


def probe_wait(failures: int, cause: str, *, hint: float | None = None) -> float:
    """Return how many seconds after the ``failures``-th failure in a row, for this cause, a relay may be probed."""
    first, longest = conf.get("BREAKER_PROBE_FIRST"), conf.get("BREAKER_PROBE_MAX")
    return schedule.probe_wait(
        failures,
        first=min(first, _FIRST_AT_LIMIT) if cause in _LIMITS else first,
        longest=min(longest, _LONGEST_WITHOUT_SERVICE) if cause in ENDS_BY_ITSELF else longest,
        longest_hint=longest,
        hint=hint,
    )
