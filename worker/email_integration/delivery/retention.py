"""What is kept no longer: finished deliveries, contents of accepted mail, results, orphaned files, old breakers.

Everything goes in small batches, each a short transaction that begins where the one before has ended, so that neither
the size of the table nor what stays in it matters. Nothing that is not finished is ever touched.
"""

from __future__ import annotations

import datetime as dt
import functools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.db import router, transaction
from django.db.models import QuerySet
from django.utils import timezone

from email_integration import conf
from email_integration.django_internals import can_skip_locked_rows
from email_integration.ledger import batches
from email_integration.message import content
from email_integration.models import CircuitBreaker, Delivery, RevokedTask, Status
from email_integration.on_commit import after_commit

from . import orphans

#: How many rows go in one short transaction.
BATCH = 500

#: A circuit breaker that no probe was made for in so long is that of a relay that is not used any more.
_FORGOTTEN = dt.timedelta(days=30)

#: For how long a revoked task is remembered of which there is no delivery.
_UNKNOWN = dt.timedelta(days=1)

#: How the names of this app's tasks begin, in results that have names (CELERY_RESULT_EXTENDED).
_TASKS = "email_integration.tasks."


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """How many of each were deleted, or would be."""

    deliveries: int
    #: Of accepted mail whose delivery is kept.
    contents: int
    #: Rows of django-celery-results.
    results: int
    #: Files that no row names.
    orphans: int
    breakers: int


def prune(*, dry_run: bool = False) -> Pruned:
    """Delete what is kept no longer. Any number of processes may do so at once; what one leaves, the next one takes."""
    deliveries, contents, results, breakers = _deliveries(), _contents(), _results(), _breakers()
    count: Counter[str] = Counter(orphans=orphans.collect(dry_run=dry_run))
    if dry_run:
        count["deliveries"] = deliveries.count()
        count["contents"] = contents.exclude(pk__in=deliveries.values("pk")).count()
        count["results"] = 0 if results is None else results.count()
        count["breakers"] = breakers.count()
    else:
        count += _in_batches(deliveries, "finished_at", _delete_deliveries)
        count += _in_batches(contents, "finished_at", _delete_contents)
        if results is not None:
            count += _in_batches(results, "date_done", _delete_results)
        count["breakers"] = breakers.delete()[0]
        _revoked().delete()
        batches.give_back_lost()
    return Pruned(**{name: count[name] for name in Pruned.__dataclass_fields__})


# -- what goes ------------------------------------------------------------------------------------------------------


def _deliveries() -> QuerySet[Delivery]:
    """Finished ones, after RETENTION_DAYS; those that something has still to follow are not finished in full."""
    return Delivery.objects.filter(finished_at__lt=_ago(conf.get("RETENTION_DAYS")), continue_after=None)


def _contents() -> QuerySet[Delivery]:
    """Those of accepted mail, after CONTENT_RETENTION_DAYS; with 0 what was kept under another setting."""
    limit = _ago(conf.get("CONTENT_RETENTION_DAYS"))
    return Delivery.objects.filter(finished_at__lt=limit, has_content=True, status=Status.ACCEPTED)


def _results() -> QuerySet[Any] | None:
    """Those that say that they are of our tasks. All others go with their deliveries."""
    rows = _all_results()
    if rows is None:
        return None
    return rows.filter(task_name__startswith=_TASKS, date_done__lt=_ago(conf.get("RETENTION_DAYS")))


def _all_results() -> QuerySet[Any] | None:
    """The rows of django-celery-results, which may be in another database; None where it is not installed."""
    if not apps.is_installed("django_celery_results"):
        return None
    model: Any = apps.get_model("django_celery_results", "TaskResult")
    rows: QuerySet[Any] = model._default_manager.using(router.db_for_write(model))
    return rows


def _breakers() -> QuerySet[CircuitBreaker]:
    return CircuitBreaker.objects.filter(probe_at__lt=timezone.now() - _FORGOTTEN)


def _revoked() -> QuerySet[RevokedTask]:
    return RevokedTask.objects.filter(created_at__lt=timezone.now() - _UNKNOWN)


def _ago(days: int) -> dt.datetime:
    return timezone.now() - dt.timedelta(days=days)


# -- how ------------------------------------------------------------------------------------------------------------


def _in_batches(rows: QuerySet[Any], moment: str, delete: Callable[[list[Any]], Counter[str]]) -> Counter[str]:
    """Have ``delete`` work on all ``rows``, the oldest by ``moment`` first, so many at a time."""
    using = rows.db
    rows = rows.order_by(moment)
    if can_skip_locked_rows(transaction.get_connection(using)):
        rows = rows.select_for_update(skip_locked=True)
    count: Counter[str] = Counter()
    rows = rows.values_list(moment, "pk")
    batch, rest = rows, True
    while rest:
        started = time.monotonic()
        with transaction.atomic(using=using):
            taken = list(batch[:BATCH])
            count += delete([pk for _, pk in taken])
        rest = len(taken) == BATCH
        if rest:
            # Not from the start again: what was deleted is still walked over until the database has tidied up.
            batch = rows.filter(**{f"{moment}__gte": taken[-1][0]})
            # As long as it has worked, so that others get their turn where only one can write at a time.
            time.sleep(time.monotonic() - started)
    return count


def _delete_deliveries(ids: list[Any]) -> Counter[str]:
    """With their attempts, their results and their files."""
    rows = Delivery.objects.filter(pk__in=ids)
    _remove_files(rows)
    deleted = rows.only("pk").delete()[1].get(Delivery._meta.label, 0)
    results = _all_results()
    if results is None:
        return Counter(deliveries=deleted)
    return Counter(deliveries=deleted, results=results.filter(task_id__in=ids).delete()[0])


def _delete_contents(ids: list[Any]) -> Counter[str]:
    rows = Delivery.objects.filter(pk__in=ids)
    _remove_files(rows)
    return Counter(contents=rows.update(**content.NONE))


def _delete_results(ids: list[Any]) -> Counter[str]:
    results = _all_results()
    return Counter() if results is None else Counter(results=results.filter(pk__in=ids).delete()[0])


def _remove_files(rows: QuerySet[Delivery]) -> None:
    """Once the transaction is committed."""
    for name in rows.exclude(content_file="").values_list("content_file", flat=True):
        after_commit("delete a content", functools.partial(content.remove_file, name), using=rows.db)
