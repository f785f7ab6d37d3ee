"""Expired data is deleted in batches, and no other data."""

from __future__ import annotations

import datetime as dt
import logging
import os
import threading
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import FileSystemStorage
from django.core.management import call_command
from django.db import connection, transaction
from django.utils import timezone
from django_celery_results.models import TaskResult

from config.local.processes import PATIENCE, wait_until
from email_integration.delivery import orphans, retention
from email_integration.delivery.retention import Pruned, prune
from email_integration.message import content
from email_integration.models import FINAL, CircuitBreaker, Delivery, DeliveryAttempt, Status
from tests.deliveries import RecordingTaskQueue, ago, pretend, submitted
from tests.stack import Stack

pytestmark = pytest.mark.django_db(transaction=True)

DAY = 24 * 3600.0
NOTHING = Pruned(deliveries=0, contents=0, results=0, orphans=0, breakers=0)

Keys = Callable[..., None]


@pytest.fixture(autouse=True)
def folder(task_queue: RecordingTaskQueue, settings: Any, tmp_path: Path) -> Path:
    """A storage for this test alone. It takes every content, whatever its size."""
    options = {"location": tmp_path / "payloads"}
    backend = "django.core.files.storage.FileSystemStorage"
    settings.STORAGES = {**settings.STORAGES, "email_integration": {"BACKEND": backend, "OPTIONS": options}}
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "PAYLOAD_STORAGE_THRESHOLD": 0}
    return tmp_path / "payloads"


@pytest.fixture
def keys(settings: Any) -> Keys:
    """Set keys of the setting."""

    def keys(**changes: Any) -> None:
        settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, **changes}

    return keys


def finished(days: float, status: Status = Status.ACCEPTED, **changes: Any) -> Delivery:
    """Return a delivery that ended this many days ago, with its content still stored."""
    at = ago(days * DAY)
    return pretend(submitted(), **{"status": status, "finished_at": at, "next_at": None, **changes})


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def left() -> set[str]:
    return set(Delivery.objects.values_list("pk", flat=True))


def made_long_ago(folder: Path, name: str, days: float = 2.0) -> None:
    """Create a file with this age."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    os.utime(path, (time.time() - days * DAY,) * 2)


def day(days: float) -> str:
    """Return the storage folder of this many days ago."""
    return f"{timezone.now() - dt.timedelta(days=days):%Y/%m/%d}"


# -- deliveries -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", sorted(FINAL))
def test_a_finished_delivery_goes_after_its_days_with_all_that_is_its(status: Status, folder: Path) -> None:
    old, young = finished(30.1, status, has_content=True), finished(29.9, status)
    for delivery in (old, young):
        DeliveryAttempt.objects.create(delivery=delivery, number=1, started_at=ago(0), outcome=status)
        TaskResult.objects.create(task_id=delivery.pk)

    done = prune()

    assert (done.deliveries, done.results) == (1, 1)
    assert left() == {young.pk}
    assert list(DeliveryAttempt.objects.values_list("delivery_id", flat=True)) == [young.pk]
    results = TaskResult.objects.filter(task_id__in=[old.pk, young.pk])
    assert list(results.values_list("task_id", flat=True)) == [young.pk]
    assert old.content_file not in files(folder)
    assert not prune().deliveries


def test_what_is_not_finished_stays_however_old(folder: Path) -> None:
    """A finished delivery whose continuation is still due stays too."""
    waiting = [
        pretend(submitted(), status=status, created_at=ago(400 * DAY), due_at=ago(400 * DAY))
        for status in Status
        if not status.is_final
    ]
    followed = finished(400, continue_after=ago(399 * DAY), has_content=False)

    done = prune()

    assert done == NOTHING
    assert left() == {followed.pk, *(delivery.pk for delivery in waiting)}
    assert {delivery.content_file for delivery in waiting} <= files(folder)


def test_however_many_there_are_each_transaction_is_small(
    monkeypatch: pytest.MonkeyPatch, django_assert_max_num_queries: Any
) -> None:
    """Each batch begins where the previous one ended, even among deliveries with equal times."""
    monkeypatch.setattr(retention, "BATCH", 7)
    at = ago(40 * DAY)
    old = [finished(40, finished_at=at) for _ in range(20)] + [finished(50 + number) for number in range(5)]
    stay = {finished(1, has_content=False).pk for _ in range(3)}
    # BEGIN, SELECT, files, SELECT, attempts, deliveries, results, COMMIT for each of four batches, and a few for the
    # rest: revoked tasks, bulk actions, lost claims.
    with django_assert_max_num_queries(4 * 8 + 16):
        assert prune().deliveries == len(old)
    assert left() == stay


@pytest.mark.extra
def test_a_thousand_batches_are_no_more_than_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch makes as many queries as the first."""
    monkeypatch.setattr(retention, "BATCH", 1)
    monkeypatch.setattr(retention.time, "sleep", lambda seconds: None)
    first = submitted()
    rows = [
        Delivery(
            id=f"old{number}",
            message_id=first.message_id,
            recipients=first.recipients,
            due_at=first.due_at,
            expires_at=first.expires_at,
            status="failed",
            next_at=None,
            finished_at=ago(100 * 86400 - number),
        )
        for number in range(1100)
    ]
    Delivery.objects.bulk_create(rows)
    assert retention.prune().deliveries == 1100


def test_several_at_once_delete_everything_once() -> None:
    for number in range(30):
        TaskResult.objects.create(task_id=finished(40 + number).pk)
    start = threading.Barrier(3)
    done: list[Pruned] = []

    def work() -> None:
        try:
            start.wait(PATIENCE)
            done.append(prune())
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    assert [sum(one.deliveries for one in done), sum(one.results for one in done)] == [30, 30]
    assert left() == set()


def test_a_mail_that_is_released_during_the_pruning_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarantined mail that a user releases between two batches is no longer finished."""
    monkeypatch.setattr(retention, "BATCH", 1)
    finished(41)
    released = finished(40, Status.QUARANTINED)
    monkeypatch.setattr(time, "sleep", lambda _: pretend(released, status=Status.DEFERRED, finished_at=None))

    assert prune().deliveries == 1
    assert left() == {released.pk}


# -- contents -------------------------------------------------------------------------------------------------------


def test_contents_of_accepted_mail_go_after_their_days(keys: Keys, folder: Path) -> None:
    """The delivery stays. A mail that was not accepted keeps its content and can be sent again."""
    keys(CONTENT_RETENTION_DAYS=3)
    old, young, failed = finished(3.1), finished(2.9), finished(10, Status.FAILED)

    assert prune() == Pruned(deliveries=0, contents=1, results=0, orphans=0, breakers=0)

    row = Delivery.objects.get(pk=old.pk)
    assert (row.has_content, row.content_file, row.content_seal, bytes(row.content)) == (False, "", "", b"")
    assert files(folder) == {young.content_file, failed.content_file}
    assert left() == {old.pk, young.pk, failed.pk}
    assert content.read(young)


def test_contents_of_earlier_settings_are_pruned_with_0(folder: Path) -> None:
    in_a_file = finished(0.001)
    in_the_row = finished(0.001, content_file="", content=b"plain")
    content.remove_file(in_a_file.content_file)  # already deleted, which is no reason to stop

    assert prune().contents == 2
    assert not Delivery.objects.filter(pk__in=[in_a_file.pk, in_the_row.pk], has_content=True).exists()
    assert not Delivery.objects.get(pk=in_the_row.pk).content


def test_a_file_goes_only_once_its_row_has_gone(folder: Path) -> None:
    """If a surrounding transaction is rolled back, both the row and the file stay."""
    delivery = finished(40)
    try:
        with transaction.atomic():
            assert prune().deliveries == 1
            raise InterruptedError
    except InterruptedError:
        pass
    assert left() == {delivery.pk}
    assert content.read(delivery)


# -- results, circuit breakers --------------------------------------------------------------------------------------


def test_old_results_of_our_tasks_go_and_no_others() -> None:
    """Results of repeated submissions have their own ids. They contain the task's name if Celery is configured to store
    it.
    """
    for name in ("email_integration.tasks.send_email", "shop.tasks.charge", None):
        for days in (31, 29):
            result = TaskResult.objects.create(task_id=f"{name} {days}", task_name=name)
            TaskResult.objects.filter(pk=result.pk).update(date_done=ago(days * DAY))

    assert prune().results == 1
    assert not TaskResult.objects.filter(task_id="email_integration.tasks.send_email 31").exists()
    assert TaskResult.objects.count() == 5


def test_it_works_without_a_table_of_results(settings: Any) -> None:
    finished(40)
    settings.INSTALLED_APPS = [name for name in settings.INSTALLED_APPS if name != "django_celery_results"]
    assert prune().deliveries == 1


def test_a_breaker_without_a_probe_for_a_month_goes() -> None:
    for key, days in (("old", 31), ("young", 29)):
        CircuitBreaker.objects.create(key=key, smtp_config="n", host="h", reason="r", probe_at=ago(days * DAY))
    assert prune().breakers == 1
    assert [row.key for row in CircuitBreaker.objects.all()] == ["young"]


# -- orphans --------------------------------------------------------------------------------------------------------


def test_a_submission_that_is_rolled_back_leaves_an_orphan_that_is_collected_a_day_later(folder: Path) -> None:
    try:
        with transaction.atomic():
            name = submitted().content_file
            raise InterruptedError
    except InterruptedError:
        pass
    kept = submitted()
    assert files(folder) == {name, kept.content_file}
    assert prune() == NOTHING

    # Two days later.
    for one in (name, kept.content_file):
        moved = f"{day(2)}/{Path(one).name}"
        (folder / moved).parent.mkdir(parents=True, exist_ok=True)
        (folder / one).rename(folder / moved)
        os.utime(folder / moved, (time.time() - 2 * DAY,) * 2)
        Delivery.objects.filter(content_file=one).update(content_file=moved)

    assert prune(dry_run=True).orphans == 1
    assert prune().orphans == 1
    assert files(folder) == {Delivery.objects.get().content_file}


def test_nothing_is_deleted_that_is_not_of_this_app(folder: Path) -> None:
    """Other applications may use the same storage."""
    name = "0123456789abcdef" * 2
    theirs = {
        name,
        "uploads/2020/01/01/" + name,
        f"2020/01/{name}",
        f"2020/01/01/{name}.pdf",
        f"2020/01/01/{name[:-1]}",
        f"2020/01/01/{name.upper()}",
        f"2020/1/01/{name}",
        f"2020/02/31/{name}",
        f"2020/01/01/more/{name}",
        f"٢٠٢٠/01/01/{name}",
    }
    for one in theirs:
        made_long_ago(folder, one)
    made_long_ago(folder, f"2020/01/01/{name}")

    assert prune().orphans == 1
    assert files(folder) == theirs


def test_an_old_folder_that_is_empty_goes_too(folder: Path) -> None:
    made_long_ago(folder, f"{day(2)}/{'a' * 32}")
    (folder / day(0)).mkdir(parents=True)
    prune()
    assert (folder / day(0)).is_dir()
    assert not (folder / day(2)).exists()


def test_a_young_file_in_an_old_folder_stays(folder: Path) -> None:
    """It may have been restored just now."""
    made_long_ago(folder, f"{day(5)}/{'a' * 32}", days=0.5)
    assert prune().orphans == 0


def test_many_files_are_asked_about_in_batches(
    folder: Path, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
) -> None:
    monkeypatch.setattr(orphans, "BATCH", 10)
    for number in range(25):
        made_long_ago(folder, f"{day(3)}/{number:032x}")
    kept = pretend(submitted(), content_file=f"{day(3)}/{7:032x}")
    with django_assert_num_queries(3):
        assert orphans.collect() == 24
    assert kept.content_file in files(folder)


class WithoutTimes(FileSystemStorage):
    def get_modified_time(self, name: str) -> dt.datetime:
        raise NotImplementedError


class WithoutLists(FileSystemStorage):
    def listdir(self, path: str) -> tuple[list[str], list[str]]:
        raise NotImplementedError


class OutOfReach(FileSystemStorage):
    def listdir(self, path: str) -> tuple[list[str], list[str]]:
        raise ConnectionError("keep-secret")


def use(settings: Any, storage: type[FileSystemStorage], folder: Path) -> None:
    options = {"location": folder}
    backend = f"{__name__}.{storage.__name__}"
    settings.STORAGES = {**settings.STORAGES, "email_integration": {"BACKEND": backend, "OPTIONS": options}}


def test_a_storage_that_knows_no_times_goes_by_the_date_in_the_path(settings: Any, folder: Path) -> None:
    use(settings, WithoutTimes, folder)
    for days in (0, 5):
        made_long_ago(folder, f"{day(days)}/{'a' * 32}")
    assert prune().orphans == 1
    assert files(folder) == {f"{day(0)}/{'a' * 32}"}


@pytest.mark.parametrize(("storage", "level"), [(WithoutLists, logging.DEBUG), (OutOfReach, logging.WARNING)])
def test_a_storage_that_cannot_be_searched_is_passed_over(
    storage: type[FileSystemStorage], level: int, settings: Any, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All other data is deleted."""
    finished(40)
    use(settings, storage, folder)
    with caplog.at_level(logging.DEBUG, "email_integration.delivery.orphans"):
        assert prune().deliveries == 1
    ours = [record for record in caplog.records if record.name.endswith(".orphans")]
    assert [record.levelno for record in ours] == [level]
    assert "keep-secret" not in caplog.text


def test_without_a_storage_there_is_nothing_to_collect(settings: Any) -> None:
    settings.STORAGES = {name: one for name, one in settings.STORAGES.items() if name != "email_integration"}
    assert prune() == NOTHING


# -- starting it ----------------------------------------------------------------------------------------------------


def said(*arguments: str) -> list[str]:
    out = StringIO()
    call_command("prune_deliveries", *arguments, stdout=out)
    return out.getvalue().splitlines()


def test_the_command_says_how_many_and_with_dry_run_does_nothing(keys: Keys, folder: Path) -> None:
    keys(CONTENT_RETENTION_DAYS=1)
    for days in (40, 41, 2):
        TaskResult.objects.create(task_id=finished(days, has_content=days != 41).pk)
    TaskResult.objects.create(task_id="a", task_name="email_integration.tasks.repeated")
    TaskResult.objects.filter(task_id="a").update(date_done=ago(40 * DAY))
    made_long_ago(folder, f"2020/01/01/{'a' * 32}")
    before = left(), files(folder), TaskResult.objects.count()

    # A dry run does not count the results of deliveries.
    assert said("--dry-run") == [
        "Would be deleted:",
        "  2 finished deliveries",
        "  1 contents of accepted mail",
        "  1 results",
        "  1 files that no delivery names",
        "  0 old circuit breakers",
    ]
    assert (left(), files(folder), TaskResult.objects.count()) == before
    assert said() == [
        "Deleted:",
        "  2 finished deliveries",
        "  1 contents of accepted mail",
        "  3 results",
        "  1 files that no delivery names",
        "  0 old circuit breakers",
    ]


def test_beat_has_an_entry_that_goes_where_the_sweep_goes() -> None:
    from celery import current_app
    from celery.schedules import crontab

    current_app.finalize()
    [entry] = [
        entry for entry in current_app.conf.beat_schedule.values() if entry["task"] == "email_integration.tasks.prune"
    ]
    assert isinstance(entry["schedule"], crontab)
    assert entry["options"]["queue"] == "mail.sweep"
    # A worker that is back within an hour still runs it, and the task does not pile up.
    assert entry["options"]["expires"] == 3600


def test_a_worker_does_it(stack: Callable[..., Stack], folder: Path) -> None:
    from celery import current_app

    from email_integration.tasks import names
    from email_integration.tasks.hooks import prune_options

    finished(40)
    stack(beat=False)
    current_app.send_task(names.PRUNE, **prune_options())
    wait_until(lambda: not left(), what="the pruning by the worker")
