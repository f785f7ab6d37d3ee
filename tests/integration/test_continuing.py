"""Tasks after a mail are published with the same task ids each time, and count once in a chord."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from celery import Signature, chain, chord, current_app, group, signature
from celery.result import GroupResult
from django_celery_results.models import ChordCounter
from kombu.exceptions import OperationalError
from redis import Redis

from config.local.valkey import Valkey
from email_integration.ledger import task_queue
from email_integration.models import Delivery
from email_integration.queue import continuing, sweeper
from email_integration.tasks import canvas, send_email
from tests.broker import messages
from tests.deliveries import ago, in_threads, pretend

pytestmark = pytest.mark.django_db(transaction=True)

Calls = Callable[[], Any]
MAIL: dict[str, Any] = {"args": ("Subject", "Text"), "kwargs": {"to": ["kim@example.com"]}}


def task(name: str, **options: Any) -> Signature[Any]:
    """A task that this process does not know, for example a task of another project."""
    made: Signature[Any] = signature(f"other.{name}", queue="others", **options)
    return made


def mail(subject: str = "Another") -> Signature[Any]:
    made: Signature[Any] = send_email.si(subject, "Text", to=["kim@example.com"])
    return made


def finished(pk: str, status: str = "accepted") -> Delivery:
    """Return the delivery as finished a moment ago."""
    return pretend(Delivery.objects.get(pk=pk), status=status, next_at=None, continue_after=ago(1))


def published(valkey: Valkey, queue: str = "others") -> list[tuple[str, str]]:
    """Return the name and the id of each task in the queue."""
    return [(message.task, message.headers["id"]) for message in messages(valkey, queue)]


def linked() -> str:
    links = [task("a"), task("b"), group(task("c"), task("d")), chain(task("e"), task("f"))]
    return str(send_email.apply_async(**MAIL, link=links).id)


def in_chain() -> str:
    chain(send_email.si("Subject", "Text", to=["kim@example.com"]), task("a"), task("b")).apply_async()
    return str(Delivery.objects.get().pk)


def before_a_group() -> str:
    step = send_email.si("Subject", "Text", to=["kim@example.com"])
    chain(step, group(task("a"), task("b"), task("c"))).apply_async()
    return str(Delivery.objects.get().pk)


def failing() -> str:
    return str(send_email.apply_async(**MAIL, link_error=[task("a"), task("b", immutable=True)]).id)


def linked_to_a_chord() -> str:
    return str(send_email.apply_async(**MAIL, link=chord([task("a"), task("b")], task("c"))).id)


@pytest.mark.parametrize(
    ("call", "status", "names"),
    [
        (linked, "accepted", "a b c d e"),
        (in_chain, "accepted", "a"),
        (before_a_group, "accepted", "a b c"),
        (failing, "failed", "a b"),
        (linked_to_a_chord, "accepted", "a b"),
    ],
)
def test_what_is_published_again_has_the_same_ids(valkey: Valkey, call: Calls, status: str, names: str) -> None:
    """For example after a worker was killed before it recorded that it had published."""
    pk = call()
    valkey.flush()
    assert continuing.publish(finished(pk, status))
    first = published(valkey)
    assert [name for name, _ in first] == [f"other.{name}" for name in names.split()]
    assert Delivery.objects.get(pk=pk).continue_after is None
    assert continuing.publish(finished(pk, status))
    assert published(valkey) == first * 2
    assert len({task_id for _, task_id in first}) == len(first)


def test_ids_of_one_mail_are_not_those_of_another(valkey: Valkey) -> None:
    for pk in (linked(), linked()):
        continuing.publish(finished(pk))
    ids = [task_id for _, task_id in published(valkey)]
    assert len(set(ids)) == len(ids) == 10


def test_what_later_steps_are_published_as_stays_the_same_too(valkey: Valkey) -> None:
    """The chain continues from the message of its next step, which contains the ids of the rest."""
    pk = linked()
    bodies = []
    for _ in range(2):
        valkey.flush()
        continuing.publish(finished(pk))
        with Redis.from_url(valkey.url) as client:
            found = [json.loads(text) for text in client.lrange("others", 0, -1)]
        bodies.append(sorted(one["body"] for one in found))
    assert bodies[0] == bodies[1]


def test_an_id_that_a_signature_has_is_kept(valkey: Valkey) -> None:
    pk = send_email.apply_async(**MAIL, link=task("a").set(task_id="chosen")).id
    continuing.publish(finished(pk))
    assert published(valkey) == [("other.a", "chosen")]


def test_a_mail_that_follows_is_submitted_once(valkey: Valkey) -> None:
    pk = send_email.apply_async(**MAIL, link=[mail(), group(mail("one"), mail("two"))]).id
    for _ in range(3):
        assert continuing.publish(finished(pk))
    assert Delivery.objects.count() == 4


def test_a_part_of_a_chord_counts_once(valkey: Valkey) -> None:
    """If it counted twice, the body would begin without the other part."""
    chord([mail("one"), mail("two"), task("a")])(task("body"))
    one, two = Delivery.objects.order_by("created_at")
    continuing.publish(finished(one.pk))
    assert ChordCounter.objects.get().count == 2
    stale = Delivery.objects.get(pk=one.pk)  # a slow worker's copy: another worker has already recorded the publication
    assert continuing.publish(stale)
    assert ChordCounter.objects.get().count == 2
    continuing.publish(finished(two.pk))
    assert ChordCounter.objects.get().count == 1


def test_a_part_of_a_chord_counts_once_when_two_are_at_it(valkey: Valkey) -> None:
    chord([mail("one"), mail("two"), mail("three")])(task("body"))
    delivery = finished(Delivery.objects.order_by("created_at")[0].pk)
    assert in_threads(*[lambda: continuing.publish(delivery)] * 4) == [True] * 4
    assert ChordCounter.objects.get().count == 2


def test_a_part_of_a_chord_that_could_not_be_noted_is_not_counted(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    chord([mail("one"), mail("two")])(task("body"))
    delivery = finished(Delivery.objects.order_by("created_at")[0].pk)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("email_integration.ledger.continuation.done", killed)
        with pytest.raises(KeyboardInterrupt):
            continuing.publish(delivery)
    assert ChordCounter.objects.get().count == 2
    continuing.publish(finished(delivery.pk))
    assert ChordCounter.objects.get().count == 1


def test_the_body_of_a_chord_has_one_id(valkey: Valkey) -> None:
    result = chord([mail("one"), mail("two")])(task("body"))
    for delivery in Delivery.objects.all():
        row = finished(delivery.pk)
        current_app.backend.store_result(row.pk, {"id": row.pk}, "SUCCESS")
        assert continuing.publish(row)
    assert isinstance(result.parent, GroupResult)
    assert published(valkey) == [("other.body", result.id)]


def test_errbacks_of_the_body_of_a_chord_have_one_id(valkey: Valkey) -> None:
    chord([mail("one")])(task("body").on_error(task("sorry")))
    delivery = Delivery.objects.get()
    current_app.backend.store_result(delivery.pk, ValueError("no"), "FAILURE")
    counters = list(ChordCounter.objects.values())
    ids = []
    for _ in range(2):
        ChordCounter.objects.all().delete()
        ChordCounter.objects.create(**counters[0])  # as if the first time had been rolled back
        valkey.flush()
        continuing.publish(finished(delivery.pk, "failed"))
        ids.append(published(valkey))
    assert ids[0] == ids[1] == [("other.sorry", ids[0][0][1])]


def test_a_broker_that_is_away_is_tried_again_by_a_sweep(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    pk = linked()
    valkey.flush()
    delivery = finished(pk)

    def away(*_: Any) -> None:
        raise OperationalError("kim@example.com")

    with monkeypatch.context() as patched:
        patched.setattr(canvas, "go_on", away)
        assert not continuing.publish(delivery)
    assert Delivery.objects.get(pk=pk).continue_after is not None
    assert published(valkey) == []
    finished(pk)
    sweeper.sweep()
    assert len(published(valkey)) == 5
    assert Delivery.objects.get(pk=pk).continue_after is None


@pytest.mark.parametrize(
    "damaged",
    ["{", "[]", '{"link": 5}', '{"link": [5]}', '{"link": [{"task": 5}]}', '{"chain": [{"task": "a"}, null]}'],
)
def test_what_is_damaged_in_the_database_holds_up_nothing(valkey: Valkey, damaged: str) -> None:
    pk = linked()
    pretend(Delivery.objects.get(pk=pk), options=damaged)
    well = linked()
    for one in (pk, well):
        finished(one)
    valkey.flush()
    sweeper.sweep()
    assert len(published(valkey)) == 5
    assert Delivery.objects.get(pk=well).continue_after is None


def test_in_eager_mode_what_follows_needs_no_worker(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """For example tasks after a cancelled mail."""
    pk = linked()
    finished(pk)
    continued: list[str] = []
    monkeypatch.setattr(canvas, "go_on", lambda app, delivery: continued.append(delivery.pk))
    current_app.conf.task_always_eager = True
    try:
        task_queue.call_for_sweep(using="default")
    finally:
        current_app.conf.task_always_eager = False
    assert continued == [pk]
    assert Delivery.objects.get(pk=pk).continue_after is None
