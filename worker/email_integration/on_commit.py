"""What is done once a transaction is committed."""

from __future__ import annotations

import logging
from collections.abc import Callable

from django.db import transaction

logger = logging.getLogger(__name__)


def after_commit(what: str, act: Callable[[], object], *, using: str | None) -> None:
    """Do something once the transaction is committed, at once if there is none; ``what`` is for the log.

    What fails is logged without its text, which may quote the mail, and keeps nothing else from being done. Django's
    own ``robust=True`` logs the text, and takes no ``functools.partial``.
    """

    def bearing() -> None:
        try:
            act()
        except Exception as error:  # the commit stands, whatever this is
            logger.error("Could not %s (%s).", what, type(error).__name__)

    transaction.on_commit(bearing, using=using)
