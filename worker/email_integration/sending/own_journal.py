"""The journal of this process: its folder, and opening it once."""

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
    """The state of this process, which a forked child does not share."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.owner = f"{socket.gethostname()[:200]}:{os.getpid()}:{secrets.token_hex(8)}"
        self.journal: Journal | None = None
        self.failed_at: float | None = None


_own = _Process()


def _forget() -> None:
    global _own  # the parent's state; ``Journal`` has closed its file
    _own = _Process()


after_fork_in_child(_forget)


def owner(journal: Journal | None) -> str:
    """Return the owner of a batch that this process claims with this journal: host, process id, random text.

    Each journal of this process has another owner, and so do batches claimed without a journal: a journal that is found
    after a crash tells nothing about mails that were not noted in it.
    """
    return _own.owner if journal is None else journal.owner


def folder() -> Path:
    """Return the folder of the journals: JOURNAL_DIR, or a folder of this user below the temporary folder.

    Raises ``DatabaseError``, because the installation's id is part of its name.
    """
    given = conf.get("JOURNAL_DIR")
    if given:
        return Path(given)
    return journal_place.below_temporary(installation.identity())


def opened() -> Journal | None:
    """Return the journal of this process, opened on first use; None when there can be none now.

    A failure is logged. After a failure of the folder or the disk, opening is tried again after a
    minute. After a failure of the database it is tried at the next call: the database is needed for
    the claim anyway.
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
            logger.warning("No journal is in use (%s): fewer mails are sent at a time. See JOURNAL_DIR.", error)
            own.failed_at, own.journal = time.monotonic(), None
        except (DatabaseError, InterfaceError) as error:
            logger.warning("No journal is in use, because the database failed (%s).", type(error).__name__)
            own.journal = None
        return own.journal


def close() -> None:
    """Close the journal at the end of the process."""
    own = _own
    with own.lock:
        if own.journal is not None:
            own.journal.close()
            own.journal = None
