"""Chords whose parts are mails, with a process that is killed while it begins a chord or counts the last part."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Signature, chain, chord, current_app, group, signature
from celery.result import GroupResult
from celery.signals import after_task_publish
from django.db import connection
from django_celery_results.models import ChordCounter

from config.local.valkey import Valkey
from email_integration.message.previews import subjects
from email_integration.models import Delivery
from email_integration.queue import continuing
from email_integration.tasks import canvas, send_email
from email_integration.tasks.outbox import OutboxTask
from email_integration.tasks.wake_ups import CeleryTaskQueue
from tests.broker import messages
from tests.deliveries import ago, in_threads, pretend
from tests.results import results_kept_in, url_of_results

pytestmark = [
    pytest.mark.django_db(transaction=True),
    # Celery's Redis backend calls deprecated functions and leaves its connections to the garbage collector.
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(params=["database", "redis"])
def results(request: pytest.FixtureRequest, valkey: Valkey) -> Iterator[None]:
    """Store task results in each of the two result backends."""
    url = url_of_results(valkey) if request.param == "redis" else "django-db"
    with results_kept_in(url):
        yield


def body() -> Signature[Any]:
    """A task that this process does not know, for example a task of another project."""
    made: Signature[Any] = signature("other.body", queue="others")
    return made


def mail(subject: str) -> Signature[Any]:
    made: Signature[Any] = send_email.si(subject, "Text", to=["kim@example.com"])
    return made


def prepared(subject: str) -> Signature[Any]:
    made: Signature[Any] = send_email.prepare(subject, "Text", to=["kim@example.com"])
    return made


def two_mails() -> list[Signature[Any]]:
    return [mail("one"), mail("two")]


def two_prepared() -> list[Signature[Any]]:
    return [prepared("one"), prepared("two")]


def two_chains() -> list[Signature[Any]]:
    return [chain(mail("one"), mail("two")), chain(mail("three"), mail("four"))]


def accepted(delivery: Delivery) -> Delivery:
    """Return the delivery as accepted, with its result stored and its continuation not published yet."""
    row = pretend(Delivery.objects.get(pk=delivery.pk), status="accepted", next_at=None, continue_after=ago(1))
    current_app.backend.store_result(canvas.task_id_of(row), {"id": row.pk}, "SUCCESS")
    return row


def finish() -> None:
    """Accept all mails and publish their continuations, until none is left."""
    for _ in range(10):
        waiting = Delivery.objects.exclude(status="accepted").exclude(options=canvas.UNCALLED)
        for one in waiting:
            accepted(one)
        if not continuing.publish_due() and not waiting:
            return


def published(valkey: Valkey) -> list[str]:
    """Return the ids of the published bodies."""
    return [message.headers["id"] for message in messages(valkey, "others")]


class Killed(BaseException):
    """A simulated kill: handlers for ``Exception`` do not catch it."""


@contextlib.contextmanager
def killed_after(calls: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Simulate a kill after ``calls`` mails were called."""
    call, left = OutboxTask.apply_async, [calls]

    def called(self: OutboxTask, *args: Any, **kwargs: Any) -> Any:
        if not left[0]:
            raise Killed
        left[0] -= 1
        return call(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(OutboxTask, "apply_async", called)
        with pytest.raises(Killed):
            yield


@pytest.mark.parametrize("meanwhile", ["waiting", "accepted"])
@pytest.mark.parametrize("calls", [0, 1])
@pytest.mark.parametrize("header", [two_mails, two_prepared, two_chains])
@pytest.mark.usefixtures("results")
def test_a_chord_that_was_begun_by_half_is_begun_as_a_whole(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch, header: Any, calls: int, meanwhile: str
) -> None:
    """The process is killed while it submits the parts. These parts then count in the chord that is begun after it."""
    result = chain(mail("first"), group(header()), body()).apply_async()
    first = accepted(Delivery.objects.get(options__contains="other.body"))
    with killed_after(calls, monkeypatch):
        continuing.publish(first)
    if meanwhile == "accepted":
        for one in Delivery.objects.exclude(pk=first.pk).exclude(options=canvas.UNCALLED):
            assert continuing.publish(accepted(one))
    assert published(valkey) == []
    finish()
    assert published(valkey) == [result.id]


@pytest.mark.usefixtures("results")
def test_a_chord_that_was_begun_twice_ends_once(valkey: Valkey) -> None:
    """The process is killed after it has submitted all parts and before it has recorded that."""
    result = chain(mail("first"), group(mail("one"), mail("two")), body()).apply_async()
    first = Delivery.objects.get()
    for _ in range(3):
        assert continuing.publish(accepted(first))
    finish()
    assert published(valkey) == [result.id]


@pytest.mark.parametrize("results", ["redis"], indirect=True)
@pytest.mark.usefixtures("results")
def test_a_chord_whose_end_was_about_to_be_published_ends(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis lets one process publish the body, for some seconds. That process is killed before it publishes."""
    result = chord([mail("one"), mail("two")])(body())
    assert isinstance(result.parent, GroupResult)
    claim = current_app.backend.get_key_for_group(result.parent.id, ".c")
    one, two = Delivery.objects.order_by("created_at")
    assert continuing.publish(accepted(one))

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    two = accepted(two)
    with monkeypatch.context() as patched:
        patched.setattr(GroupResult, "restore", killed)
        with pytest.raises(Killed):
            continuing.publish(two)
    assert not continuing.publish(accepted(two))
    assert Delivery.objects.get(pk=two.pk).continue_after is not None
    assert published(valkey) == []
    current_app.backend.client.delete(claim)  # as Redis does after some seconds
    for _ in range(2):
        assert continuing.publish(accepted(two))
        assert published(valkey) == [result.id]


@pytest.mark.usefixtures("results")
def test_the_parts_of_a_chord_that_fails_get_its_error_once(valkey: Valkey) -> None:
    """The count and the errbacks of its last part do not wait for anything."""
    chord([mail("one"), mail("two").on_error(signature("other.sorry", queue="others"))])(body())
    one, two = Delivery.objects.order_by("created_at")
    assert continuing.publish(accepted(one))
    row = pretend(accepted(two), status="failed", code=550, reason="refused")
    current_app.backend.store_result(row.pk, ValueError("refused"), "FAILURE")
    assert continuing.publish(row)
    assert Delivery.objects.get(pk=two.pk).continue_after is None
    assert len(published(valkey)) == 1


def test_an_error_of_the_result_backend_that_passes_is_no_end_of_what_follows(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker is another server here and raises other exceptions."""

    class Away(Exception):
        pass

    send_email.apply_async(("Subject", "Text"), {"to": ["kim@example.com"]}, link=body())
    delivery = accepted(Delivery.objects.get())
    with monkeypatch.context() as patched:
        patched.setattr(canvas, "go_on", lambda *_: (_ for _ in ()).throw(Away))
        patched.setattr(current_app.backend, "exception_safe_to_retry", lambda error: isinstance(error, Away))
        assert not continuing.publish(delivery)
    assert current_app.AsyncResult(delivery.pk).state == "SUCCESS"
    assert published(valkey) == []
    assert continuing.publish(accepted(delivery))
    assert len(published(valkey)) == 1


# -- a mail that a task before it in the header calls again ---------------------------------------------------------


def task(name: str, queue: str) -> Signature[Any]:
    made: Signature[Any] = signature(f"other.{name}", queue=queue, immutable=True)
    return made


def begin_twice(monkeypatch: pytest.MonkeyPatch, *header: Signature[Any], end: Signature[Any] | None = None) -> None:
    """Begin a chord after a mail, kill the process at the first mail of the header, and begin the chord again."""
    chain(mail("first"), group(*header), end or body()).apply_async()
    first = accepted(Delivery.objects.get())
    with killed_after(0, monkeypatch):
        continuing.publish(first)
    assert continuing.publish(first)


def run(valkey: Valkey, number: int) -> None:
    """Continue like a worker that has run the task of message ``number`` in the queue "before"."""
    message = messages(valkey, "before")[number]
    *later, step = message.embedded["chain"]
    current_app.signature(step).apply_async((None,), chain=later, parent_id=message.headers["id"])


def failed(subject: str) -> Delivery:
    """Return the mail with this subject, recorded as refused."""
    row = pretend(accepted(called(subject)), status="failed", code=550, reason="refused")
    current_app.backend.store_result(row.pk, ValueError("refused"), "FAILURE")
    return row


def called(subject: str) -> Delivery:
    """Return the mail with this subject."""
    [pk] = [pk for pk, found in subjects(Delivery.objects.all()).items() if found == subject]
    return Delivery.objects.get(pk=pk)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
@pytest.mark.parametrize("meanwhile", ["waiting", "accepted"])
@pytest.mark.usefixtures("results")
def test_a_mail_behind_a_task_of_the_header_counts_in_the_chord_that_was_begun_last(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch, order: list[int], meanwhile: str
) -> None:
    """The task is in the broker twice, once for each chord, and either message may run first."""
    begin_twice(monkeypatch, chain(task("before", "before"), mail("one")), mail("two"))
    for number in order:
        run(valkey, number)
        if meanwhile == "accepted" and number == order[0]:
            assert continuing.publish(accepted(called("one")))
    finish()
    assert len(published(valkey)) == 1
    assert Delivery.objects.count() == 3


@pytest.mark.parametrize("moment", ["before it is noted", "after it was noted"])
@pytest.mark.usefixtures("results")
def test_a_mail_that_is_called_again_while_it_goes_on_counts_in_the_later_chord(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    begin_twice(monkeypatch, chain(task("before", "before"), mail("one")), mail("two"))
    run(valkey, 0)
    what = (canvas, "go_on") if moment == "before it is noted" else (CeleryTaskQueue, "continue_")
    go_on = getattr(*what)

    def going_on(*args: Any) -> None:
        go_on(*args)
        run(valkey, 1)

    with monkeypatch.context() as patched:
        patched.setattr(*what, going_on)
        continuing.publish(accepted(called("one")))
    for one in Delivery.objects.filter(continue_after__isnull=False):
        pretend(one, continue_after=ago(1))
    finish()
    assert len(published(valkey)) == 1


@pytest.mark.usefixtures("results")
def test_what_a_mail_has_called_is_not_called_again_with_its_chord(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = mail("one").set(link=[task("link", "links")])
    begin_twice(monkeypatch, chain(task("before", "before"), one), mail("two").set(link=[task("link", "links")]))
    for number in (0, 1):
        run(valkey, number)
        continuing.publish(called("one") if number else accepted(called("one")))
    finish()
    assert len(published(valkey)) == 1
    assert len(messages(valkey, "links")) == 2


@pytest.mark.usefixtures("results")
def test_what_parts_call_is_not_called_again_when_their_chord_is_begun_again(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [mail(subject).set(link=[task("link", "links")]) for subject in ("one", "two", "three")]
    chain(mail("first"), group(parts), body()).apply_async()
    first = accepted(Delivery.objects.get())
    with killed_after(2, monkeypatch):
        continuing.publish(first)
    for one in Delivery.objects.exclude(pk=first.pk):
        continuing.publish(accepted(one))
    finish()
    assert len(published(valkey)) == 1
    assert len(messages(valkey, "links")) == 3


@pytest.mark.usefixtures("results")
def test_a_chord_of_mails_and_tasks_that_was_begun_by_half_is_begun_as_a_whole(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that has counted in the first chord counts in the second, and its callbacks are not called again."""
    one = mail("one").set(link=[task("link", "links")])
    header = [one, chain(task("before", "before"), mail("two")), mail("three")]
    chain(mail("first"), group(header), body()).apply_async()
    first = accepted(Delivery.objects.get())
    with killed_after(1, monkeypatch):
        continuing.publish(first)
    for begun in Delivery.objects.exclude(pk=first.pk):
        assert continuing.publish(accepted(begun))
    assert continuing.publish(first)
    for number in (1, 0):
        run(valkey, number)
    finish()
    assert len(published(valkey)) == 1
    assert len(messages(valkey, "links")) == 1
    assert Delivery.objects.count() == 4


@pytest.mark.parametrize("results", ["database"], indirect=True)
@pytest.mark.parametrize("first_of", [lambda one: one, lambda one: chain(one, mail("two"))])
@pytest.mark.usefixtures("results")
def test_a_task_of_the_header_is_not_published_before_its_chord_is_committed(valkey: Valkey, first_of: Any) -> None:
    """A worker may run it at once, and its result would not count in the chord."""
    chain(mail("first"), group(first_of(task("before", "before")), mail("one")), body()).apply_async()
    found = []

    def published_one(**_: Any) -> None:
        found.append((ChordCounter.objects.count(), connection.in_atomic_block))

    after_task_publish.connect(published_one, sender="other.before")
    try:
        assert continuing.publish(accepted(Delivery.objects.get()))
    finally:
        after_task_publish.disconnect(published_one, sender="other.before")
    assert found == [(1, False)]


@pytest.mark.usefixtures("results")
def test_a_chord_that_several_begin_at_a_time_is_one(valkey: Valkey) -> None:
    chain(mail("first"), group(mail("one"), mail("two"), mail("three")), body()).apply_async()
    first = accepted(Delivery.objects.get())
    in_threads(*[lambda: continuing.publish(first)] * 4)
    assert len({canvas.request_of(one).group for one in Delivery.objects.exclude(pk=first.pk)}) == 1
    finish()
    assert len(published(valkey)) == 1


# -- a failing chain in the header ----------------------------------------------------------------------------------


def sorry() -> Signature[Any]:
    """Return a body with an errback that makes the error visible."""
    return body().on_error(task("sorry", "sorry"))


@pytest.mark.usefixtures("results")
def test_a_chain_that_fails_counts_though_its_process_was_killed(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    chord([chain(mail("one"), mail("two")), mail("three")])(sorry())
    row = failed("one")

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(current_app.backend, "on_chord_part_return", killed)
        with pytest.raises(Killed):
            continuing.publish(row)
    assert continuing.publish(row)
    assert continuing.publish(accepted(called("three")))
    assert len(messages(valkey, "sorry")) == 1


@pytest.mark.usefixtures("results")
def test_a_chain_that_fails_counts_in_the_chord_that_was_begun_last(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_twice(monkeypatch, chain(task("before", "before"), mail("one"), mail("two")), mail("three"), end=sorry())
    run(valkey, 0)
    assert continuing.publish(failed("one"))
    run(valkey, 1)
    continuing.publish_due()
    assert continuing.publish(accepted(called("three")))
    assert len(messages(valkey, "sorry")) == 1
    assert published(valkey) == []


# -- a repeated call ------------------------------------------------------------------------------------------------


def chain_again(chosen: bool) -> None:
    parts = [mail(subject).set(task_id=subject) if chosen else mail(subject) for subject in ("one", "two")]
    end = body().set(task_id="body") if chosen else body()
    chain(mail("first").set(task_id="order-7"), group(parts), end).apply_async()


def chord_again(chosen: bool) -> None:
    parts = [mail(subject).set(task_id=subject) for subject in ("one", "two")]
    chord(parts)(body().set(task_id="body") if chosen else body())


@pytest.mark.parametrize("chosen", [False, True])
@pytest.mark.parametrize("call", [chain_again, chord_again])
@pytest.mark.parametrize("first_is", ["waiting", "accepted", "all done"])
@pytest.mark.usefixtures("results")
def test_a_call_that_is_repeated_under_its_task_id_changes_nothing(
    valkey: Valkey, call: Any, chosen: bool, first_is: str
) -> None:
    call(chosen)
    if first_is == "accepted":
        for one in Delivery.objects.all():
            accepted(one)
    if first_is == "all done":
        finish()
    before = list(Delivery.objects.order_by("pk").values())
    call(chosen)
    assert list(Delivery.objects.order_by("pk").values()) == before
    finish()
    assert Delivery.objects.count() == (3 if call is chain_again else 2)
    assert len(published(valkey)) == 1


# -- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("results")
def test_a_mail_that_is_the_body_is_not_lost(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is killed after the result backend has called the body, and before this is recorded."""
    chord([mail("one"), mail("two")])(mail("body"))
    one, two = Delivery.objects.order_by("created_at")
    assert continuing.publish(accepted(one))

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("email_integration.ledger.continuation.done", killed)
        with pytest.raises(Killed):
            continuing.publish(accepted(two))
    finish()
    assert Delivery.objects.count() == 3


@pytest.mark.parametrize("calls", [0, 1, 2])
@pytest.mark.usefixtures("results")
def test_a_chord_that_is_the_body_is_begun_as_a_whole(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """The process is killed while it begins the chord, or before it has recorded that the result backend is done."""
    chain(group(mail("one"), mail("two")), group(mail("three"), mail("four")), body()).apply_async()
    one, two = Delivery.objects.order_by("created_at")
    assert continuing.publish(accepted(one))
    two = accepted(two)

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("email_integration.ledger.continuation.done", killed)
        if hasattr(current_app.backend, "client"):
            patched.setattr(current_app.backend, "_chord_cleanup_script", killed)
        if calls < 2:
            with killed_after(calls, monkeypatch):
                continuing.publish(two)
        else:
            with pytest.raises(Killed):
                continuing.publish(two)
    if hasattr(current_app.backend, "client"):
        claim = current_app.backend.get_key_for_group(canvas.request_of(one).group, ".c")
        current_app.backend.client.delete(claim)  # as Redis does after some seconds
    finish()
    assert Delivery.objects.count() == 4
    assert len(set(published(valkey))) == 1


@pytest.mark.parametrize("results", ["database"], indirect=True)
@pytest.mark.parametrize("calls", [None, 0])
@pytest.mark.usefixtures("results")
def test_a_chord_that_is_the_body_is_committed_before_a_task_of_its_header_is_published(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch, calls: int | None
) -> None:
    """A worker may run that task at once, and its result would not count in the chord."""
    before = current_app.signature("other.before", queue="before")
    chain(group(mail("one"), mail("two")), group(chain(before, mail("three")), mail("four")), body()).apply_async()
    one, two = (accepted(found) for found in Delivery.objects.order_by("created_at"))
    assert continuing.publish(one)
    found = []

    def published_one(**_: Any) -> None:
        found.append((ChordCounter.objects.count(), connection.in_atomic_block))

    after_task_publish.connect(published_one, sender="other.before")
    try:
        with killed_after(calls, monkeypatch) if calls is not None else contextlib.nullcontext():
            assert continuing.publish(two)
        finish()
    finally:
        after_task_publish.disconnect(published_one, sender="other.before")
    begun = len(found)
    assert begun == (1 if calls is None else 2)
    assert not any(is_within for _, is_within in found)
    sent = messages(valkey, "before")
    assert [[one["id"] for one in message.arguments[0]] for message in sent] == [[one.pk, two.pk]] * begun
    for number in range(begun):
        run(valkey, number)
    finish()
    assert len(published(valkey)) == 1
    assert Delivery.objects.count() == 4
