"""What was learned about servers, in a table that all processes share.

It is found out in the dialogue (see ``email_integration.smtp.quirks``), belongs to the settings as they are, and counts
for a week: servers are fixed too.
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

#: How long what was learned counts.
KEPT = dt.timedelta(days=7)

#: Seconds for which a row is not read again: many sessions are opened at a time.
_READ_HOLDS = 5.0


class SharedMemory(Memory):
    """Quirks in the database. Where it cannot be read or written, this process goes by what it has learned itself."""

    def __init__(self) -> None:
        super().__init__()
        self._unsaved: dict[Relay, dict[str, Any]] = {}
        # What was read of each relay, and when that began.
        self._rows: dict[Relay, tuple[Quirks, float]] = {}
        # When this process has saved last: what it read before may be older than that.
        self._saved_at = 0.0

    def recall(self, relay: Relay) -> Quirks:
        """What is known of ``relay``, to other processes a moment ago."""
        known = self._read(relay)
        unsaved = self._unsaved.get(relay, {})
        if unsaved:
            self._save_on_commit(relay)
        return replace(known, **unsaved)

    def _read(self, relay: Relay) -> Quirks:
        """What the database knows of ``relay``."""
        asked_at = time.monotonic()
        known, read_at = self._rows.get(relay, (Quirks(), float("-inf")))
        if read_at > max(asked_at - _READ_HOLDS, self._saved_at):
            return known
        try:
            with savepoint(ServerQuirks.objects.db):
                row = ServerQuirks.objects.filter(pk=breaker.key(relay), learned_at__gt=timezone.now() - KEPT).first()
        except (DatabaseError, InterfaceError) as error:
            logger.warning("What is known of the server of %s cannot be read (%s).", relay, type(error).__name__)
            return Quirks()
        known = Quirks()
        if row is not None:
            known = Quirks(pipelining=Pipelining(row.pipelining), mails=row.mails, recipients=row.recipients)
        self._rows[relay] = known, asked_at
        return known

    def learn(self, relay: Relay, **changes: Any) -> None:
        """Have all processes know it, once a transaction that is open here is committed."""
        extra = {"configuration": relay.name, **{f"learned_{name}": str(value) for name, value in changes.items()}}
        words = ", ".join(f"{name} {value}" for name, value in changes.items())
        logger.warning("Learned about the server of %s: %s.", relay, words, extra=extra)
        self._unsaved[relay] = {**self._unsaved.get(relay, {}), **changes}
        self._save_on_commit(relay)

    def _save_on_commit(self, relay: Relay) -> None:
        after_commit(
            f"save what was learned about {relay}", functools.partial(self._save, relay), using=ServerQuirks.objects.db
        )

    def _save(self, relay: Relay) -> None:
        key, changes = breaker.key(relay), self._unsaved.get(relay)
        if not changes:
            return  # saved already
        place = {"smtp_config": relay.name, "host": relay.host, "learned_at": timezone.now()}
        ServerQuirks.objects.update_or_create(pk=key, defaults={**place, **changes})
        ServerQuirks.objects.filter(smtp_config=relay.name).exclude(pk=key).delete()  # of former settings
        self._saved_at = time.monotonic()
        if self._unsaved.get(relay) == changes:  # else more was learned meanwhile
            self._unsaved.pop(relay, None)


#: This process's.
memory = SharedMemory()
