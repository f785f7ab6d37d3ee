"""Delete old data: finished deliveries, contents of accepted mail, results, orphaned files, breakers, bulk actions.

Rows are deleted in small batches. Each batch is a short transaction that starts where the previous one ended, so the
size of the table, and the rows that stay in it, do not matter. Unfinished deliveries are never changed.
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
from email_integration.models import BulkAction, CircuitBreaker, Delivery, RevokedTask, Status
from email_integration.on_commit import after_commit

from . import orphans

#: Rows that one short transaction deletes.
BATCH = 500

#: A circuit breaker without a probe for this long belongs to a relay that is no longer used.
_FORGOTTEN = dt.timedelta(days=30)

#: How long a revoked task without a delivery is remembered.
_UNKNOWN = dt.timedelta(days=1)

#: How long a bulk action is kept: longer than the page that confirms it is valid, so that none is confirmed twice.
_CONFIRMED = dt.timedelta(days=7)

#: The prefix of this app's task names, in results that have names (CELERY_RESULT_EXTENDED).
_TASKS = "email_integration.tasks."


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """The numbers of rows and files that were deleted, or in a dry run would be."""

    deliveries: int
    #: Contents of accepted mail whose delivery is kept.
    contents: int
    #: Rows of django-celery-results.
    results: int
    #: Files that no row names.
    orphans: int
    breakers: int


def prune(*, dry_run: bool = False) -> Pruned:
    """Delete the data whose retention time is over. With ``dry_run`` only count it.

    Several processes may do this at once; the next one deletes the rows that one leaves.
    """
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
        BulkAction.objects.filter(created_at__lt=timezone.now() - _CONFIRMED).delete()
        batches.give_back_lost()
    return Pruned(**{name: count[name] for name in Pruned.__dataclass_fields__})


# -- selection --------------------------------------------------------------------------------------------------------


def _deliveries() -> QuerySet[Delivery]:
    """Return the deliveries finished RETENTION_DAYS ago or earlier, without those that have a pending continuation."""
    return Delivery.objects.filter(finished_at__lt=_ago(conf.get("RETENTION_DAYS")), continue_after=None)


def _contents() -> QuerySet[Delivery]:
    """Return accepted mail with a content older than CONTENT_RETENTION_DAYS.

    With 0 it was kept under another setting.
    """
    limit = _ago(conf.get("CONTENT_RETENTION_DAYS"))
    return Delivery.objects.filter(finished_at__lt=limit, has_content=True, status=Status.ACCEPTED)


def _results() -> QuerySet[Any] | None:
    """Return old results with a name of this app's tasks. Other results are deleted with their deliveries."""
    rows = _all_results()
    if rows is None:
        return None
    return rows.filter(task_name__startswith=_TASKS, date_done__lt=_ago(conf.get("RETENTION_DAYS")))


def _all_results() -> QuerySet[Any] | None:
    """Return the rows of django-celery-results, possibly in another database; None when it is not installed."""
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


# -- deletion ---------------------------------------------------------------------------------------------------------


def _in_batches(rows: QuerySet[Any], moment: str, delete: Callable[[list[Any]], Counter[str]]) -> Counter[str]:
    """Call ``delete`` for all ``rows`` in batches, the oldest by ``moment`` first, and return the sum of its counts."""
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
            # Not from the beginning: the database still reads deleted rows until it has vacuumed the table.
            batch = rows.filter(**{f"{moment}__gte": taken[-1][0]})
            # As long as the work took, so that other writers get their turn if the database has only one at a time.
            time.sleep(time.monotonic() - started)
    return count


def _delete_deliveries(ids: list[Any]) -> Counter[str]:
    """Delete deliveries with their attempts, results and files."""
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
    """Remove the files of ``rows`` after the commit."""
    for name in rows.exclude(content_file="").values_list("content_file", flat=True):
        after_commit("delete stored content", functools.partial(content.remove_file, name), using=rows.db)
