"""The gate of a relay at fault: while it is closed nobody connects, but for one prober at a time.

It is asked only before a new session is opened, so that it costs nothing while sessions last. Mended settings are
another relay, with a gate of its own.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
from typing import Protocol

from django.db import models, router, transaction
from django.db.models import F
from django.utils.crypto import salted_hmac

from email_integration import conf
from email_integration.models import DatabaseTime, RelayGate
from email_integration.outcomes.causes import ENDS_BY_ITSELF, Cause
from email_integration.outcomes.schedule import doubled
from email_integration.smtp import Relay

logger = logging.getLogger(__name__)

#: A server that does not answer, is not available, or limits how much we send, is tried at least this often, in
#: seconds: it costs nothing. One that has refused us is left alone up to RETRY_MAX: providers lock accounts after many
#: wrong logins.
_LONGEST_WITHOUT_SERVICE = 45.0

#: One that limits how much we send is tried again after a second first: many count the mails of each.
_LIMITS = frozenset({Cause.LIMIT, Cause.ACCOUNT_RATE})
_FIRST_AT_LIMIT = 1.0


class GateClosed(Exception):
    """The relay is at fault, and it is not yet time to try it again."""

    def __init__(self, relay: Relay, code: int | None, cause: str, reason: str) -> None:
        super().__init__(relay, code, cause, reason)
        self.relay = relay
        self.code = code
        self.cause = cause
        self.reason = reason


def enter(relay: Relay) -> bool:
    """Ask for the way to ``relay``. True for a prober, who has to tell how it ended; False when nothing is wrong.

    Raises ``GateClosed``.
    """
    rows = _rows().filter(pk=key(relay))
    found = rows.first()
    if found is None:
        return False
    due = rows.filter(probe_at__lte=DatabaseTime())
    if due.exists():
        if in_transaction():
            return True  # to be the only one would take a lock, which everybody had to wait for until the commit
        # Nobody else tries meanwhile: it is longer than an attempt takes, up to the reply to its final dot.
        if due.update(probe_at=DatabaseTime(ahead=2 * relay.timeout + conf.get("LEASE"))):
            return True
    raise GateClosed(relay, found.code, found.cause, found.reason)


def due() -> frozenset[str]:
    """The keys of the relays at fault that somebody may try now."""
    return frozenset(_rows().filter(probe_at__lte=DatabaseTime()).values_list("pk", flat=True))


def in_transaction() -> bool:
    """Whether somebody else has a transaction open here: a caller of the direct backend."""
    return bool(transaction.get_connection(database()).in_atomic_block)


class Fault(Protocol):
    """What the relay is to blame for; ``retry_in`` is the server's hint in seconds."""

    @property
    def code(self) -> int | None: ...

    @property
    def cause(self) -> str: ...

    @property
    def reason(self) -> str: ...

    @property
    def retry_in(self) -> float | None: ...


def close(relay: Relay, fault: Fault, *, probing: bool) -> float:
    """Close the gate, or keep it closed after a probe; return in how many seconds it may be tried again."""
    said = {"code": fault.code, "cause": str(fault.cause), "reason": fault.reason[:255]}
    wait = _wait(1, fault)
    times = {"closed_at": DatabaseTime(), "probe_at": DatabaseTime(ahead=wait)}
    gate, created = _rows().get_or_create(
        pk=key(relay), defaults={"smtp_config": relay.name, "host": relay.host, **times, **said}
    )
    if created:
        extra = {"configuration": relay.name, "reply_code": fault.code, "cause": said["cause"], "reason": fault.reason}
        logger.warning("The gate of %s is closed: %s", relay.name, fault.reason, extra=extra)
    elif probing:
        wait = _wait(gate.failures + 1, fault)
        _rows().filter(pk=gate.pk).update(failures=F("failures") + 1, probe_at=DatabaseTime(ahead=wait), **said)
    else:
        _, wait = next_probe(relay) or (None, 0.0)
    return wait


def give_up_probe(relay: Relay) -> None:
    """Let somebody else try: this probe came to no verdict."""
    _rows().filter(pk=key(relay)).update(probe_at=DatabaseTime())


def open_(relay: Relay) -> bool:
    """Open the gate; False when it was open."""
    opened = bool(_rows().filter(pk=key(relay)).delete()[0])
    if opened:
        logger.info("The gate of %s is open again.", relay.name, extra={"configuration": relay.name})
    return opened


def forget_former(relay: Relay) -> bool:
    """Forget the gates that may be tried now of what ``relay`` was with another password; False when there are none.

    Only one that is kept elsewhere changes without a change of the configuration.
    """
    former = _rows().filter(smtp_config=relay.name, probe_at__lte=DatabaseTime()).exclude(pk=key(relay))
    return bool(former.delete()[0])


def open_all() -> None:
    """Open every gate: the settings have changed."""
    _rows().all().delete()


def is_closed(relay: Relay, *, by: Cause | None = None) -> bool:
    """Whether ``relay`` is at fault at this moment; with ``by``, for that cause."""
    rows = _rows().filter(pk=key(relay))
    return (rows if by is None else rows.filter(cause=by.value)).exists()


def next_probe(relay: Relay) -> tuple[dt.datetime, float] | None:
    """When ``relay`` may be tried again, and in how many seconds that is, 0 for now; None when it is not at fault."""
    found = _rows().filter(pk=key(relay)).annotate(now=DatabaseTime()).first()
    return (found.probe_at, max(0.0, (found.probe_at - found.now).total_seconds())) if found else None


def key(relay: Relay) -> str:
    """A digest of all the settings of ``relay``; nobody can tell the password from it."""
    settings = tuple(getattr(relay, field.name) for field in dataclasses.fields(relay) if field.compare)
    return salted_hmac("email_integration.gate", repr(settings), algorithm="sha256").hexdigest()


def _wait(failures: int, fault: Fault) -> float:
    first, longest = conf.get("RETRY_FIRST"), conf.get("RETRY_MAX")
    hint = min(fault.retry_in or 0.0, longest)
    if fault.cause in ENDS_BY_ITSELF:
        longest = min(longest, _LONGEST_WITHOUT_SERVICE)
    if fault.cause in _LIMITS:
        first = min(first, _FIRST_AT_LIMIT)
    return float(max(hint, doubled(first, failures - 1, longest=longest)))


def _rows() -> models.QuerySet[RelayGate]:
    return RelayGate.objects.using(database())


def database() -> str:
    """The database alias that gates are written to."""
    return router.db_for_write(RelayGate)
