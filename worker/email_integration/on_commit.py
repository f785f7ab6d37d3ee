"""Functions to call after a transaction is committed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from django.db import transaction

logger = logging.getLogger(__name__)


#: A description for the log, and the function to call.
Act = tuple[str, Callable[[], object]]


def after_commit(what: str, act: Callable[[], object], *, using: str | None) -> None:
    """Call ``act`` after the transaction is committed, or at once if there is none; ``what`` describes it in the log.

    An error is logged without its text, which may quote the mail, and does not stop the other functions. Django's own
    ``robust=True`` logs the text, and does not accept a ``functools.partial``.
    """
    after_commit_each([(what, act)], using=using)


def after_commit_each(acts: Sequence[Act], *, using: str | None) -> None:
    """Call several functions in turn, each as ``after_commit`` does."""
    if acts:
        transaction.on_commit(lambda: do_each(acts), using=using)


def do_each(acts: Iterable[Act]) -> None:
    """Call the functions now. Errors are logged as ``after_commit`` describes."""
    for what, act in acts:
        try:
            act()
        except Exception as error:  # the transaction is committed already, whatever the error is
            logger.error("Could not %s (%s).", what, type(error).__name__)
