"""The learned quirks of servers, in a table that all processes share.

Quirks are found in the dialogue (see ``email_integration.smtp.quirks``), belong to the current settings, and are valid
for a week, because servers are corrected too.
"""

from __future__ import annotations

import datetime as dt
import functools
import logging
import time
from dataclasses import replace
from typing import Any

from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from email_integration.models import ServerQuirks
from email_integration.on_commit import after_commit
from email_integration.savepoints import savepoint
from email_integration.smtp import Memory, Pipelining, Quirks, Relay

from . import breaker

logger = logging.getLogger(__name__)

#: How long learned quirks are valid.
KEPT = dt.timedelta(days=7)

#: Seconds for which a row is not read again: many sessions are opened at the same time.
_READ_HOLDS = 5.0


class SharedMemory(Memory):
    """Quirks in the database. If it cannot be read or written, this process uses those that it has learned itself."""

    def __init__(self) -> None:
        super().__init__()
        self._unsaved: dict[Relay, dict[str, Any]] = {}
        # The quirks that were read of each relay, and the time when the read began.
        self._rows: dict[Relay, tuple[Quirks, float]] = {}
        # The time of this process's last save: an earlier read may be older than that.
        self._saved_at = 0.0

    def recall(self, relay: Relay) -> Quirks:
        """Return the known quirks of ``relay``; those of other processes may be some seconds old."""
        known = self._read(relay)
        unsaved = self._unsaved.get(relay, {})
        if unsaved:
            self._save_on_commit(relay)
        return replace(known, **unsaved)

    def _read(self, relay: Relay) -> Quirks:
        """Return the quirks of ``relay`` in the database."""
        asked_at = time.monotonic()
        known, read_at = self._rows.get(relay, (Quirks(), float("-inf")))
        if read_at > max(asked_at - _READ_HOLDS, self._saved_at):
            return known
        try:
            with savepoint(ServerQuirks.objects.db):
                kept = ServerQuirks.objects.filter(pk=_key(relay), learned_at__gt=timezone.now() - KEPT)
                row = kept.first()
        except (DatabaseError, InterfaceError) as error:
            logger.warning("The learned limits of the server of %s cannot be read (%s).", relay, type(error).__name__)
            return Quirks()
        known = Quirks()
        if row is not None:
            known = Quirks(pipelining=Pipelining(row.pipelining), mails=row.mails, recipients=row.recipients)
        self._rows[relay] = known, asked_at
        return known

    def learn(self, relay: Relay, **changes: Any) -> None:
        """Share the changes with all processes, after the commit if a transaction is open."""
        extra = {"configuration": relay.name, **{f"learned_{name}": str(value) for name, value in changes.items()}}
        words = ", ".join(f"{name} {value}" for name, value in changes.items())
        logger.warning("Learned a limit of the server of %s: %s.", relay, words, extra=extra)
        self._unsaved[relay] = {**self._unsaved.get(relay, {}), **changes}
        self._save_on_commit(relay)

    def _save_on_commit(self, relay: Relay) -> None:
        after_commit(
            f"save the learned limits of {relay}", functools.partial(self._save, relay), using=ServerQuirks.objects.db
        )

    def _save(self, relay: Relay) -> None:
        key, changes = _key(relay), self._unsaved.get(relay)
        if not changes:
            return  # saved already
        place = {"smtp_config": relay.name, "host": relay.host, "learned_at": timezone.now()}
        ServerQuirks.objects.update_or_create(pk=key, defaults={**place, **changes})
        ServerQuirks.objects.filter(smtp_config=relay.name).exclude(pk=key).delete()  # of earlier settings
        self._saved_at = time.monotonic()
        if self._unsaved.get(relay) == changes:  # otherwise more was learned meanwhile
            self._unsaved.pop(relay, None)


def _key(relay: Relay) -> str:
    """Return the key of the row of ``relay``. It changes each time when the configuration is saved."""
    return breaker.key(relay, of_version=True)


#: The memory of this process.
memory = SharedMemory()
