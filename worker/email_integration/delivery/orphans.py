"""Remove files in the storage of contents that no row names, after a rolled-back transaction or a crash."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import logging
import re
from collections.abc import Iterator

from django.core.files.storage import Storage
from django.db.models import BooleanField
from django.db.models.expressions import RawSQL
from django.utils import timezone

from email_integration.message import content
from email_integration.models import Delivery
from email_integration.timezones import as_stored

logger = logging.getLogger(__name__)

#: Names that one query checks.
BATCH = 500

#: A younger file may belong to a transaction that is not committed yet.
AGE = dt.timedelta(days=1)

#: Year, month, day and name, as ``content`` creates them. All other files in the storage are left alone.
_PARTS = tuple(re.compile(part, re.ASCII) for part in (r"\d{4}", r"\d\d", r"\d\d", r"[0-9a-f]{32}"))

#: The exact condition of the index. SQLite would not use the index if the empty text were a parameter.
_NAMES_A_FILE = RawSQL("NOT (content_file = '')", (), output_field=BooleanField())


def collect(*, dry_run: bool = False) -> int:
    """Delete the orphans that are older than a day, and return their number. Never raises the storage's errors.

    With ``dry_run`` nothing is deleted.
    """
    try:
        storage = content.storage_of_contents()
        return 0 if storage is None else sum(_collect(storage, dry_run=dry_run))
    except NotImplementedError:
        logger.debug("The storage of contents cannot list its files, so no orphans are collected.")
    except Exception as error:  # each storage has its own errors; the next run continues
        logger.warning("The storage of contents could not be searched for orphans (%s).", type(error).__name__)
    return 0


def _collect(storage: Storage, *, dry_run: bool) -> Iterator[int]:
    limit = timezone.now() - AGE
    for folder, date in _days(storage):
        if date >= limit.date():
            continue
        files = iter(_named(storage.listdir(folder)[1], 3))
        while names := [f"{folder}/{name}" for name in itertools.islice(files, BATCH)]:
            orphans = [name for name in sorted(set(names) - _known(names)) if _is_older(storage, name, limit)]
            yield len(orphans)
            for name in () if dry_run else orphans:
                content.remove_file(name)
        # A folder is deleted when it is empty, if the storage has folders. Some storages would also delete a full
        # folder.
        if not dry_run and not any(storage.listdir(folder)):
            storage.delete(folder)


def _days(storage: Storage) -> Iterator[tuple[str, dt.date]]:
    """Yield the folders of days, with their dates."""
    for year in _folders(storage, "", 0):
        for month in _folders(storage, year, 1):
            for day in _folders(storage, f"{year}/{month}", 2):
                with contextlib.suppress(ValueError):  # not a date
                    yield f"{year}/{month}/{day}", dt.date(int(year), int(month), int(day))


def _folders(storage: Storage, path: str, depth: int) -> list[str]:
    try:
        return _named(storage.listdir(path)[0], depth)
    except FileNotFoundError:  # nothing is stored yet, or the folder was removed meanwhile
        return []


def _named(names: list[str], depth: int) -> list[str]:
    return sorted(name for name in names if _PARTS[depth].fullmatch(name))


def _known(names: list[str]) -> set[str]:
    """Return those of the names that a row contains."""
    rows = Delivery.objects.filter(_NAMES_A_FILE, content_file__in=names)
    # Without an order, so that SQLite does not use the index of the order.
    return set(rows.order_by().values_list("content_file", flat=True))


def _is_older(storage: Storage, name: str, limit: dt.datetime) -> bool:
    """Return whether the file is older than ``limit``. Without a modification time, the date in its path counts."""
    try:
        modified = storage.get_modified_time(name)
    except NotImplementedError:
        return True
    except FileNotFoundError:
        return False
    return as_stored(modified) < limit
