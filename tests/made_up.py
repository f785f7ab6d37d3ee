"""Fix the values that Django and the standard library generate for each mail, so that two mails can be compared."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from unittest import mock

import django

_NOW = datetime(2026, 1, 1, tzinfo=UTC)


@contextlib.contextmanager
def made_up_alike() -> Iterator[None]:
    """Fix Message-ID, Date, and the boundaries between parts."""
    numbers = itertools.count()
    if django.VERSION >= (6, 0):
        date = mock.patch("django.core.mail.message.datetime", **{"now.side_effect": _NOW.astimezone})
    else:
        date = mock.patch("django.core.mail.message.formatdate", return_value=format_datetime(_NOW))
    with (
        date,
        mock.patch("django.core.mail.message.make_msgid", return_value="<1@example.com>"),
        mock.patch("email.generator.random.randrange", side_effect=lambda limit: next(numbers)),
    ):
        yield
