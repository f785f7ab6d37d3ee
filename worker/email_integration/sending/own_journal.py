"""The journal of this process: where it lies, and opening it once."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from pathlib import Path

from django.db import DatabaseError, InterfaceError

from email_integration import conf
from email_integration.forks import after_fork_in_child
from email_integration.ledger import installation

from . import journal_place
from .journal import Journal, JournalUnavailable

logger = logging.getLogger(__name__)

#: Seconds after which a process that could not open its journal tries again.
_AGAIN_AFTER = 60.0


class _Process:
    """What is this process's own, and not that of one it was forked from."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.owner = f"{socket.gethostname()[:200]}:{os.getpid()}:{secrets.token_hex(8)}"
        self.journal: Journal | None = None
        self.failed_at: float | None = None


_own = _Process()


def _forget() -> None:
    global _own  # that of the process it was forked from; ``Journal`` itself has closed its file
    _own = _Process()


after_fork_in_child(_forget)


def owner(journal: Journal | None) -> str:
    """What this process is called as the owner of a batch that it claims with this journal: host, number, chance.

    One for each of its journals, and another for what is claimed without: the journal that is found after its death
    says nothing of what was not noted in it.
    """
    return _own.owner if journal is None else journal.owner


def folder() -> Path:
    """Where the journals lie: in JOURNAL_DIR, or in a folder of this user's below the temporary one.

    Raises ``DatabaseError``: the installation's id is part of its name.
    """
    given = conf.get("JOURNAL_DIR")
    if given:
        return Path(given)
    return journal_place.below_temporary(installation.identity())


def opened() -> Journal | None:
    """The journal of this process, opened when it is asked for first; None when there can be none now.

    That is logged. A folder or a disk that does not take it is tried again after a minute, a database that failed when
    this is asked next: it may be back, and is asked for the claim anyway.
    """
    own = _own
    with own.lock:
        if own.journal is not None and own.journal.is_in_place:
            return own.journal
        if own.failed_at is not None and time.monotonic() - own.failed_at < _AGAIN_AFTER:
            return None
        try:
            name = f"{own.owner}:{secrets.token_hex(4)}"
            own.journal = Journal.open(folder(), installation=installation.identity(), owner=name)
        except JournalUnavailable as error:
            logger.warning("There is no journal (%s): fewer mails are sent at a time; see JOURNAL_DIR.", error)
            own.failed_at, own.journal = time.monotonic(), None
        except (DatabaseError, InterfaceError) as error:
            logger.warning("There is no journal, because the database failed (%s).", type(error).__name__)
            own.journal = None
        return own.journal


def close() -> None:
    """Close the journal, at the end of the process."""
    own = _own
    with own.lock:
        if own.journal is not None:
            own.journal.close()
            own.journal = None
