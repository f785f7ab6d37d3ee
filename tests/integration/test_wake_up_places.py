"""A worker that also serves other tasks uses at most half of its processes as dispatchers: places, and wake-ups without
a free place.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from celery import signals
from hypothesis import given
from hypothesis import strategies as st

from email_integration.ledger import task_queue
from email_integration.smtpd import SMTPServer
from email_integration.tasks import dispatch as dispatch_task
from email_integration.tasks import names, places
from email_integration.tasks.places import Places, allowed, dispatch
from tests import children
from tests.children import die, stop
from tests.deliveries import RecordingTaskQueue, submitted
from tests.relays import config_for

pytestmark = pytest.mark.django_db(transaction=True)

#: The child processes of a test, which end with it.
_children: list[children.Child] = []


class Child(children.Child):
    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__(act)
        _children.append(self)


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    yield
    while _children:
        _children.pop().kill()


QUEUES = ("mail.high", "mail", "mail.bulk", "newsletter")


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Places:
    """This process belongs to a worker with one dispatcher place."""
    made = Places()
    made.allow(1)
    monkeypatch.setattr(places, "_places", made)
    return made


@pytest.fixture
def woken() -> Iterator[list[str]]:
    """The queues for which a wake-up is published."""
    before = task_queue.installed()
    recording = RecordingTaskQueue()
    task_queue.install(recording)
    yield recording.woken
    task_queue.install(before)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock for the times at which queues are noted."""
    now = [1000.0]
    monkeypatch.setattr(places, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


class Sending:
    """A substitute for dispatchers: it records the queues, and runs the events of other processes."""

    def __init__(self, **meanwhile: Callable[[], object]) -> None:
        """Each value of ``meanwhile`` is called once, for the queue with the name of its key, without the dot."""
        self.queues: list[str] = []
        self._meanwhile = meanwhile

    def __call__(self, queue: str) -> dict[str, int]:
        self.queues.append(queue)
        self._meanwhile.pop(queue.replace(".", ""), lambda: None)()
        return {"accepted": 1}


def never(queue: str) -> dict[str, int]:
    raise AssertionError(f"{queue} is dispatched without a place")


def refused(*queues: str) -> Callable[[], None]:
    """Return a function: another process runs wake-ups of these queues and finds no place for them."""

    def run() -> None:
        for queue in queues:
            assert dispatch(queue, never) == {}

    return run


def received(name: str, processes: int, *queues: str) -> None:
    """Simulate a message to a worker with this many processes that serves these queues."""
    app = SimpleNamespace(
        amqp=SimpleNamespace(queues=SimpleNamespace(consume_from=dict.fromkeys(queues))),
        conf=SimpleNamespace(task_default_queue="celery"),
    )
    consumer = mock.Mock(app=app, pool=SimpleNamespace(num_processes=processes))
    signals.task_received.send(sender=consumer, request=SimpleNamespace(name=name))


# -- number of places -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("processes", "served", "places"),
    [
        (4, "mail.high mail mail.bulk mail.sweep celery", 2),
        (5, "mail celery", 2),
        (3, "mail celery", 1),
        (2, "mail celery", 1),
        (1, "mail celery", 1),
        (4, "mail mail.sweep", 4),
        (4, "mail newsletter", 2),
        (4, "mail.high mail mail.bulk", 4),
        (4, "mail.bulk", 4),
        (1, "mail", 1),
        (0, "mail celery", 1),
        (4, "celery", 2),
        (4, "", 2),
    ],
)
def test_half_of_the_processes_or_all_of_those_of_mail_alone(processes: int, served: str, places: int) -> None:
    assert allowed(processes, served.split(), default="celery") == places


@pytest.mark.parametrize(
    ("settings_of_queues", "served", "places"),
    [
        ({"QUEUE": "", "HIGH_QUEUE": "", "BULK_QUEUE": ""}, "celery", 2),
        ({"QUEUE": "", "HIGH_QUEUE": "", "BULK_QUEUE": "bulk"}, "bulk", 4),
        ({"QUEUE": "", "HIGH_QUEUE": "", "BULK_QUEUE": "bulk"}, "bulk celery", 2),
        ({"QUEUE": "celery", "HIGH_QUEUE": "", "BULK_QUEUE": ""}, "celery", 2),
        ({"QUEUE": "post", "HIGH_QUEUE": "", "BULK_QUEUE": ""}, "post", 4),
    ],
)
def test_a_queue_that_is_the_default_of_other_tasks_is_not_of_mail_alone(
    settings_of_queues: dict[str, str], served: str, places: int, settings: Any
) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, **settings_of_queues}
    assert allowed(4, served.split(), default="celery") == places


def test_a_worker_counts_before_each_wake_up_that_it_is_sent(worker: Places) -> None:
    """The worker's processes and queues may both change while it runs."""

    def receive(name: str, processes: int, *queues: str) -> int:
        received(name, processes, *queues)
        return worker.allowed

    assert receive(names.DISPATCH, 8, "mail", "celery") == 4
    assert receive(names.DISPATCH, 3, "mail", "celery") == 1
    assert receive(names.SWEEP, 8, "mail", "celery") == 1
    assert receive(names.DISPATCH, 8, "mail") == 8


@pytest.mark.parametrize(
    ("high_queue", "queue", "served", "is_served"),
    [
        ("mail.high", "mail", "mail.high mail mail.bulk", True),
        ("mail.high", "mail", "mail mail.bulk", False),
        ("", "mail", "mail mail.bulk", True),
        ("", "mail", "mail.bulk", False),
        ("", "", "celery mail.bulk", True),
        ("", "", "mail.bulk", False),
    ],
)
def test_a_worker_notes_whether_it_serves_urgent_mail(
    high_queue: str, queue: str, served: str, is_served: bool, worker: Places, settings: Any
) -> None:
    """A worker of bulk mail alone leaves urgent mail to other workers."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "HIGH_QUEUE": high_queue, "QUEUE": queue}
    received(names.DISPATCH, 8, *served.split())
    assert places.serves_urgent() is is_served
    assert worker.take("mail.bulk") is not None
    worker.allow(1, serves_urgent=is_served)
    assert worker.take("mail.bulk") is None  # the noted queues are stored next to it
    assert places.serves_urgent() is is_served


def test_a_process_that_is_no_workers_serves_no_urgent_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_places", None)
    assert not places.serves_urgent()


@pytest.mark.parametrize("is_served", [True, False])
def test_a_wake_up_for_bulk_mail_takes_urgent_mail_along_where_the_worker_serves_it(
    worker: Places, smtp_server: Callable[..., SMTPServer], is_served: bool, woken: list[str]
) -> None:
    config_for(smtp_server(security="plain", user=None))
    submitted(priority="bulk")
    urgent = submitted(priority="high")
    worker.allow(1, serves_urgent=is_served)
    assert dispatch_task("mail.bulk") == {"accepted": 1 + is_served}
    urgent.refresh_from_db()
    assert (urgent.status == "accepted") is is_served


def test_without_a_worker_there_is_no_rule(monkeypatch: pytest.MonkeyPatch, woken: list[str]) -> None:
    """The same holds for a spawned worker process, which shares no memory and so has no limit."""
    for none in (None, Places()):
        monkeypatch.setattr(places, "_places", none)
        outer = Sending(mail=lambda: dispatch("mail", Sending()))
        assert dispatch("mail", outer) == {"accepted": 1}
    assert woken == []


# -- places ---------------------------------------------------------------------------------------------------------


def test_no_more_than_the_places_are_taken() -> None:
    """This includes several dispatching threads in one process."""
    worker = Places()
    worker.allow(2)
    first, second = worker.take("mail"), worker.take("mail.bulk")
    assert first is not None
    assert second is not None
    assert worker.take("mail") is None
    worker.leave(first)
    assert worker.take("mail") == first


def test_a_worker_that_has_fewer_processes_by_now_has_fewer_places() -> None:
    worker = Places()
    worker.allow(2)
    first, second = worker.take("mail"), worker.take("mail")
    assert first is not None
    assert second is not None
    worker.allow(1)
    worker.leave(second)
    assert worker.take("mail") is None
    worker.leave(first)
    assert worker.take("mail") is not None
    assert worker.take("mail") is None


def test_processes_share_the_places_and_what_waits(worker: Places, woken: list[str]) -> None:
    other = Child(lambda: dispatch("mail", Sending(mail=stop)))
    other.stopped()
    assert dispatch("mail.high", never) == {}
    other.kill()  # it would have served the noted queue
    sending = Sending()
    assert dispatch("mail", sending) == {"accepted": 2}
    assert sending.queues == ["mail", "mail.high"]


def test_a_process_that_goes_on_serves_what_another_one_noted(worker: Places) -> None:
    def serve() -> None:
        sending = Sending(mail=stop)
        dispatch("mail", sending)
        assert sending.queues == ["mail", "mail.high"]

    other = Child(serve)
    other.stopped()
    assert dispatch("mail.high", never) == {}
    other.go_on()
    assert other.ended() == 0
    sending = Sending()
    dispatch("mail.bulk", sending)
    assert sending.queues == ["mail.bulk"]


def test_a_killed_process_holds_no_place(worker: Places) -> None:
    """The kill may happen during its work, or while it holds the lock and writes."""
    Child(lambda: dispatch("mail", Sending(mail=die))).killed()
    assert dispatch("mail", Sending()) == {"accepted": 1}

    def writing() -> None:
        with worker._alone():
            stop()

    other = Child(writing)
    other.stopped()
    with pytest.raises(BlockingIOError):
        fcntl.lockf(worker._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, places._MUTEX)
    other.kill()
    assert dispatch("mail", Sending()) == {"accepted": 1}


def test_a_process_that_is_forked_from_one_with_a_place_has_none(worker: Places) -> None:
    def take() -> None:
        refused("mail.bulk")()
        stop()
        sending = Sending()
        dispatch("mail", sending)
        assert sending.queues == ["mail"]  # the process with the place has served the other queue

    def fork() -> None:
        Child(take).stopped()

    sending = Sending(mail=fork)
    dispatch("mail", sending)
    assert sending.queues == ["mail", "mail.bulk"]
    _children[0].go_on()
    assert _children[0].ended() == 0


def test_processes_take_a_place_each(worker: Places) -> None:
    worker.allow(2)
    others = [Child(lambda: dispatch("mail", Sending(mail=stop))) for _ in range(2)]
    for other in others:
        other.stopped()
    assert dispatch("mail.bulk", never) == {}
    others[0].kill()
    assert worker.take("mail") is not None
    assert worker.take("mail") is None
    others[1].kill()
    assert worker.take("mail") is not None


def test_notes_that_were_not_written_to_their_end_are_none(worker: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    worker.take("mail")
    assert worker.take("mail.bulk") is None

    head, written = places._HEAD, []

    def write(memory: Any, *values: Any) -> None:
        written.append(values)
        if len(written) == 2:
            die()  # the notes are written, and their length is not
        head.pack_into(memory, *values)

    def take() -> None:
        dying = SimpleNamespace(size=head.size, unpack_from=head.unpack_from, pack_into=write)
        monkeypatch.setattr(places, "_HEAD", dying)
        worker.take("mail.high")

    Child(take).killed()
    assert worker.next([]) is None
    assert worker.allowed == 1
    assert worker.take("mail.high") is None
    assert worker.next([]) == "mail.high"


# -- noted queues ---------------------------------------------------------------------------------------------------


def test_what_waits_is_served_in_turn_the_urgent_first(worker: Places, woken: list[str]) -> None:
    sending = Sending(mailbulk=refused("newsletter", "mail.high", "mail.high", "newsletter"))
    assert dispatch("mail.bulk", sending) == {"accepted": 3}
    assert sending.queues == ["mail.bulk", "mail.high", "newsletter"]
    assert woken == []


def test_a_task_serves_no_queue_twice_and_few_in_all(worker: Places, woken: list[str]) -> None:
    """For the other queues, wake-ups are published: a worker that shuts down must not be delayed."""
    sending = Sending(mail=refused("mail", "a", "b", "c", "mail"))
    dispatch("mail", sending)
    assert sending.queues == ["mail", "a", "b"]
    assert woken == ["mail", "c"]


def test_an_urgent_queue_is_served_before_queues_that_came_earlier(worker: Places, woken: list[str]) -> None:
    sending = Sending(mail=refused("a", "b", "c"), b=refused("mail.high"))
    dispatch("mail", sending)
    assert sending.queues == ["mail", "a", "b", "mail.high"]
    assert woken == ["c"]


def test_what_has_waited_for_long_goes_before_what_is_urgent(worker: Places, clock: list[float]) -> None:
    """A flood of urgent mail delays other mail for a while, but not forever."""
    place = worker.take("mail")
    assert worker.take("mail.bulk") is None
    clock[0] += 9
    assert worker.take("mail.high") is None
    assert worker.next(["mail"]) == "mail.high"
    clock[0] += 2
    assert (worker.take("mail.bulk"), worker.take("mail.high")) == (None, None)
    assert worker.next(["mail"]) == "mail.bulk"
    assert place is not None
    assert worker.leave(place) == ["mail.high"]


def test_a_wake_up_after_the_last_look_is_published_again(worker: Places, woken: list[str]) -> None:
    """The dispatcher of the same queue has checked for the last time and has not left yet."""
    dispatch("mail", Sending(mail=refused("mail", "mail", "mail")))
    assert woken == ["mail"]
    sending = Sending()
    dispatch("mail", sending)
    assert (sending.queues, woken) == (["mail"], ["mail"])


def test_what_begins_to_be_served_is_no_longer_noted(monkeypatch: pytest.MonkeyPatch, woken: list[str]) -> None:
    worker = Places()
    worker.allow(1)
    monkeypatch.setattr(places, "_places", worker)

    def another_place() -> None:
        refused("mail.bulk")()
        worker.allow(2)
        assert dispatch("mail.bulk", Sending()) == {"accepted": 1}

    sending = Sending(mail=another_place)
    dispatch("mail", sending)
    assert (sending.queues, woken) == (["mail"], [])


def test_a_dispatcher_that_fails_leaves_its_place_and_loses_no_wake_up(worker: Places, woken: list[str]) -> None:
    def fail() -> None:
        refused("mail.high", "mail")()
        raise SystemExit

    with pytest.raises(SystemExit):
        dispatch("mail", Sending(mail=fail))
    assert woken == ["mail.high", "mail"]
    assert dispatch("mail", Sending()) == {"accepted": 1}


def test_where_no_more_can_be_noted_one_more_dispatches(worker: Places, woken: list[str]) -> None:
    """No wake-up is lost."""
    many = {f"{number:03}{'x' * 250}" for number in range(300)}
    beside = Sending()

    def wake_up() -> None:
        for queue in many:
            dispatch(queue, beside)

    sending = Sending(mail=wake_up)
    dispatch("mail", sending)
    assert beside.queues
    assert {*woken, *beside.queues, *sending.queues} == many | {"mail"}
    assert dispatch("mail", Sending(mail=refused("mail.high"))) == {"accepted": 2}


@given(st.data())
def test_each_wake_up_is_served_or_noted_or_published(data: st.DataObject) -> None:
    """Processes may take places, continue and leave in any order."""
    worker = Places()
    limit = data.draw(st.integers(1, 3))
    worker.allow(limit)
    running: dict[int, list[str]] = {}
    owed: set[str] = set()
    for _ in range(data.draw(st.integers(1, 30))):
        if running and data.draw(st.booleans()):
            place = data.draw(st.sampled_from(sorted(running)))
            queue = worker.next(running[place])
            if queue is None:
                del running[place]
                assert set(worker.leave(place)) == owed
                owed.clear()
            else:
                assert queue in owed
                owed.remove(queue)
                running[place].append(queue)
        else:
            queue = data.draw(st.sampled_from(QUEUES))
            taken = worker.take(queue)
            if taken is None:
                assert len(running) == limit
                owed.add(queue)
            else:
                assert taken not in running
                running[taken] = [queue]
                owed.discard(queue)
        assert len(running) <= limit
        assert running or not owed
    os.close(worker._file)


def test_the_task_keeps_to_it(worker: Places, woken: list[str]) -> None:
    """It claims nothing in that case."""
    assert worker.take("mail.bulk") is not None
    assert dispatch_task("mail") == {}
    assert worker.next([]) == "mail"
