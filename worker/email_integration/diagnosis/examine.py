"""The whole examination, in the order in which it is read."""

from __future__ import annotations

from . import smtp
from .findings import Section


def examine(*, test_email: str | None = None) -> list[Section]:
    """Examine the set-up; with ``test_email`` also send a mail there, directly and not through the queue.

    An empty ``test_email`` means the first of ADMINS, else the first superuser with an address.
    """
    found, relay = smtp.configuration()
    parts = (smtp.connection(relay, test_email),) if relay is not None else ()
    return [Section(title="Checking Email/SMTP Configuration", findings=tuple(found), parts=parts)]
