"""Async functions to submit mail and to make decisions."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import SynchronousOnlyOperation
from django.core.mail import EmailMessage
from django.db import transaction

import email_integration
from config.local.processes import PATIENCE
from email_integration import (
    acancel,
    adiscard,
    aio,
    arelease,
    aresend,
    asend_email,
    asend_now,
    asubmit,
    asubmit_many,
    delivery,
    submit_many,
)
from email_integration.exceptions import InvalidMail
from email_integration.models import Delivery
from email_integration.tasks import send_email, send_prepared
from tests.deliveries import RecordingTaskQueue, mail, pretend, submitted
from tests.mail_settings import make_backend

pytestmark = pytest.mark.django_db

#: The storage would keep it in a file.
LARGE = ("large.bin", b"x" * 5_000_000, "application/octet-stream")

DIRECT = "email_integration.backends.direct.EmailBackend"


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run the coroutine in an event loop from sync code inside a transaction, the test's own."""

    async def wait() -> Any:
        return await coroutine

    return async_to_sync(wait)()


async def some(*subjects: str) -> AsyncIterator[EmailMessage]:
    for subject in subjects:
        await asyncio.sleep(0)
        yield mail(subject=subject)


def test_a_mail_is_submitted_in_the_callers_transaction(task_queue: RecordingTaskQueue) -> None:
    with transaction.atomic():
        result = run(asend_email("Subject", "Text", to=["kim@example.com"], priority="high"))
        transaction.set_rollback(True)
    assert not Delivery.objects.exists()
    result = run(asend_email("Subject", "Text", to=["kim@example.com"], priority="high"))
    assert Delivery.objects.get().pk == result.id
    assert Delivery.objects.get().priority == "high"


def test_what_is_wrong_is_raised_where_it_is_awaited(task_queue: RecordingTaskQueue) -> None:
    with pytest.raises(InvalidMail, match="priority must be"):
        run(asend_email("Subject", "Text", to=["kim@example.com"], priority="urgent"))
    with pytest.raises(TypeError, match="unexpected"):
        run(asend_email("Subject", "Text", to=["kim@example.com"], colour="red"))
    assert not Delivery.objects.exists()


def test_many_come_from_an_async_iterator(task_queue: RecordingTaskQueue) -> None:
    progress: list[int] = []
    ids = run(asubmit_many(some("a", "b", "c", "d", "e"), batch_size=2, on_progress=progress.append, in_doubt="hold"))
    assert progress == [2, 4, 5]
    assert set(ids) == set(
        Delivery.objects.filter(in_doubt_policy="hold", priority="bulk").values_list("pk", flat=True)
    )
    assert len(ids) == 5
    assert len(run(asubmit_many([mail(), mail()]))) == 2


def test_an_async_iterator_that_fails_loses_nothing_that_came_before(task_queue: RecordingTaskQueue) -> None:
    async def failing() -> AsyncIterator[EmailMessage]:
        yield mail()
        yield mail()
        raise LookupError("the third")

    async def wrong() -> AsyncIterator[EmailMessage]:
        yield mail()
        yield mail("no address")
        yield mail()

    with pytest.raises(LookupError, match="the third"):
        run(asubmit_many(failing()))
    assert Delivery.objects.count() == 2
    with pytest.raises(InvalidMail, match=r"^Message 2: "):
        run(asubmit_many(wrong()))
    assert Delivery.objects.count() == 3


def test_an_async_iterator_may_ask_the_database_itself(task_queue: RecordingTaskQueue) -> None:
    """The database thread is free while the iterator makes the next message."""

    async def asking() -> AsyncIterator[EmailMessage]:
        for number in range(3):
            count = await Delivery.objects.acount()
            yield mail(subject=f"{number} after {count}")

    assert len(run(asubmit_many(asking(), batch_size=1))) == 3


@pytest.mark.parametrize("times", [1, 2])
def test_one_that_is_cancelled_submits_what_it_was_given(task_queue: RecordingTaskQueue, times: int) -> None:
    """This holds when the thread is busy with other work, and when the task is cancelled again while it waits for the
    thread.
    """

    async def cancelled() -> None:
        goes_on, taken = threading.Event(), asyncio.Event()
        others: list[asyncio.Future[Any]] = []

        async def endless() -> AsyncIterator[EmailMessage]:
            yield mail()
            yield mail()
            others.append(asyncio.ensure_future(sync_to_async(goes_on.wait)(PATIENCE)))
            await asyncio.sleep(0)
            taken.set()
            yield mail()
            await asyncio.Event().wait()

        task = asyncio.ensure_future(asubmit_many(endless()))
        await taken.wait()
        for _ in range(times):
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.sleep(0)
        goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await others[0]
        await sync_to_async(bool)()  # everything before it in the thread is done

    run(cancelled())
    assert Delivery.objects.count() == 3


def test_a_message_is_submitted(task_queue: RecordingTaskQueue) -> None:
    assert run(asubmit(mail(), delivery_id="one", envelope_sender="<>")).pk == "one"
    assert run(asubmit(mail(), delivery_id="one")).sender == "<>"


def test_decisions_can_be_awaited(task_queue: RecordingTaskQueue) -> None:
    waiting, doubtful, given_up = submitted(), submitted(), submitted()
    for one in (doubtful, given_up):
        pretend(one, status="in_doubt")
    assert run(asend_now(waiting.pk)) is True
    assert run(acancel(waiting.pk)) is True
    assert run(acancel(waiting.pk)) is False
    assert run(arelease(doubtful.pk)) is True
    assert run(adiscard(given_up.pk)) is True
    copy = run(aresend(doubtful.pk))
    assert copy.message_id == doubtful.message_id
    found = {one.pk: one.status for one in Delivery.objects.all()}
    assert found == {waiting.pk: "cancelled", doubtful.pk: "deferred", given_up.pk: "failed", copy.pk: "queued"}


@pytest.mark.parametrize(
    ("call", "instead"),
    [
        (lambda: send_email.delay("S", "B", to=["kim@example.com"]), "asend_email()"),
        (lambda: send_email.apply_async(("S", "B")), "asend_email()"),
        (lambda: send_email.s("S", "B", to=["kim@example.com"]).delay(), "sync_to_async() of other tasks and"),
        (lambda: send_email("S", "B", to=["kim@example.com"], attachments=[LARGE]), "asend_email()"),
        (lambda: send_email.apply(("S", "B"), {"to": ["kim@example.com"]}).get(), "asend_email()"),
        (lambda: send_prepared.si(delivery_id="1").delay(), "sync_to_async() of other tasks and of signatures"),
        (lambda: send_email("S", "B", to=["kim@example.com"], attachments=["/no/such/file"]), "asend_email()"),
        (lambda: send_email.AsyncResult("1").get(), "Delivery.objects.aget()"),
        (lambda: send_email.AsyncResult("1").wait(), "Delivery.objects.aget()"),
        (lambda: send_email.prepare("S", "B", to=["kim@example.com"]), "sync_to_async(send_email.prepare)()"),
        (lambda: send_email.AsyncResult("1").revoke(), "acancel()"),
        (lambda: submit_many([mail()]), "asubmit_many()"),
        (lambda: make_backend().send_messages([mail()]), "asend_email()"),
        (lambda: make_backend(DIRECT).send_messages([mail()]), "asend_email()"),
        (lambda: delivery.submit(mail()), "asubmit()"),
        (lambda: delivery.cancel("1"), "acancel()"),
        (lambda: delivery.send_now("1"), "asend_now()"),
        (lambda: delivery.release("1"), "arelease()"),
        (lambda: delivery.discard("1"), "adiscard()"),
        (lambda: delivery.resend("1"), "aresend()"),
        (lambda: delivery.erase_recipient("kim@example.com"), "sync_to_async(erase_recipient)()"),
    ],
)
def test_the_sync_ones_refuse_async_code_and_name_what_to_await(
    call: Callable[[], object], instead: str, settings: Any, tmp_path: Path
) -> None:
    """They raise before they store anything."""
    kept = tmp_path / "contents"
    files = {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": kept}}
    settings.STORAGES = {**settings.STORAGES, "email_integration": files}

    async def view() -> None:
        call()

    with pytest.raises(SynchronousOnlyOperation) as refused:
        asyncio.run(view())
    assert instead in str(refused.value)
    assert not Delivery.objects.exists()
    assert not [file for file in kept.rglob("*") if file.is_file()]


def test_each_async_function_is_exported_and_names_one_that_is_there() -> None:
    functions = {name for name, value in vars(aio).items() if inspect.iscoroutinefunction(value)}
    assert functions == {name for name in email_integration.__all__ if name.startswith("a")}
    assert all(callable(getattr(email_integration, name)) for name in email_integration.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        email_integration.no_such_name  # noqa: B018
