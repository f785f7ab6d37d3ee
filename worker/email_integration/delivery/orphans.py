"""Files in the storage of contents that no row names: what a rolled-back transaction or a crash has left."""

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

#: How many names the database is asked about at once.
BATCH = 500

#: What is younger may belong to a transaction that is not committed yet.
AGE = dt.timedelta(days=1)

#: Year, month, day and name, as ``content`` makes them. Nothing else in the storage is ours.
_PARTS = tuple(re.compile(part, re.ASCII) for part in (r"\d{4}", r"\d\d", r"\d\d", r"[0-9a-f]{32}"))

#: In the words of the index: with the empty text as a parameter SQLite would not take it.
_NAMES_A_FILE = RawSQL("NOT (content_file = '')", (), output_field=BooleanField())


def collect(*, dry_run: bool = False) -> int:
    """Delete the orphans that are older than a day and return how many there were. Never raises what a storage does."""
    try:
        storage = content.storage_of_contents()
        return 0 if storage is None else sum(_collect(storage, dry_run=dry_run))
    except NotImplementedError:
        logger.debug("The storage of contents cannot list its files, so no orphans are collected.")
    except Exception as error:  # each storage has its own; the next run goes on
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
        # A folder goes when it is empty, where there are folders. There are storages that would delete a full one too.
        if not dry_run and not any(storage.listdir(folder)):
            storage.delete(folder)


def _days(storage: Storage) -> Iterator[tuple[str, dt.date]]:
    """The folders of days, with their dates."""
    for year in _folders(storage, "", 0):
        for month in _folders(storage, year, 1):
            for day in _folders(storage, f"{year}/{month}", 2):
                with contextlib.suppress(ValueError):  # no such day
                    yield f"{year}/{month}/{day}", dt.date(int(year), int(month), int(day))


def _folders(storage: Storage, path: str, depth: int) -> list[str]:
    try:
        return _named(storage.listdir(path)[0], depth)
    except FileNotFoundError:  # nothing has been stored yet, or somebody has removed it meanwhile
        return []


def _named(names: list[str], depth: int) -> list[str]:
    return sorted(name for name in names if _PARTS[depth].fullmatch(name))


def _known(names: list[str]) -> set[str]:
    """Those of the names that a row has."""
    rows = Delivery.objects.filter(_NAMES_A_FILE, content_file__in=names)
    # In no order, lest SQLite take the index of the order.
    return set(rows.order_by().values_list("content_file", flat=True))


def _is_older(storage: Storage, name: str, limit: dt.datetime) -> bool:
    """Whether the file is older than ``limit``; one whose time nobody knows is by the date in its path."""
    try:
        modified = storage.get_modified_time(name)
    except NotImplementedError:
        return True
    except FileNotFoundError:
        return False
    return as_stored(modified) < limit
