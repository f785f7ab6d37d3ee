"""What is done once a transaction is committed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from django.db import transaction

logger = logging.getLogger(__name__)


#: What is done, in words for the log, and the function that does it.
Act = tuple[str, Callable[[], object]]


def after_commit(what: str, act: Callable[[], object], *, using: str | None) -> None:
    """Do something once the transaction is committed, at once if there is none; ``what`` is for the log.

    What fails is logged without its text, which may quote the mail, and keeps nothing else from being done. Django's
    own ``robust=True`` logs the text, and takes no ``functools.partial``.
    """
    after_commit_each([(what, act)], using=using)


def after_commit_each(acts: Sequence[Act], *, using: str | None) -> None:
    """Do several things in turn, each as ``after_commit`` does one."""
    if acts:
        transaction.on_commit(lambda: do_each(acts), using=using)


def do_each(acts: Iterable[Act]) -> None:
    """Do what is to be done after a commit, now; what fails is logged as said in ``after_commit``."""
    for what, act in acts:
        try:
            act()
        except Exception as error:  # the commit stands, whatever this is
            logger.error("Could not %s (%s).", what, type(error).__name__)
