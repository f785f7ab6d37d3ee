"""Wake-ups: when one is published, when it is suppressed, and the steps in which a dispatcher leaves."""

from __future__ import annotations

import contextvars
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import pytest
from django.core.cache import caches
from django.core.cache.backends.redis import RedisCache
from django.db import DatabaseError, connection, transaction
from django.test import TestCase
from redis import Redis

from config.local.processes import PATIENCE
from config.local.valkey import Valkey
from email_integration.caching import databases, is_shared
from email_integration.ledger import installation, task_queue
from email_integration.models import Delivery, Installation
from email_integration.queue import wakeups
from email_integration.queue.wakeups import KEPT, QUIET, Stay
from email_integration.tasks import names
from email_integration.tasks.wake_ups import sweep_options
from tests.broker import messages
from tests.deliveries import RecordingTaskQueue, in_threads, submitted

pytestmark = pytest.mark.django_db(transaction=True)


class Clock:
    """A substitute for the module ``time``. Time passes when a test says so, and during a sleep."""

    def __init__(self) -> None:
        #: Exact, so that 20 ms have passed after 20 ms.
        self.now = Fraction(1000)
        #: Called in the middle of a sleep.
        self.meanwhile: Callable[[], object] = lambda: None

    def monotonic(self) -> Fraction:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += Fraction(seconds)

    def sleep(self, seconds: float) -> None:
        self.passes(seconds / 2)
        self.meanwhile()
        self.passes(seconds / 2)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Clock:
    """The clock of this process for wake-ups. The cache's own expiry is set so long that a busy machine does not reach
    it.
    """
    clock = Clock()
    monkeypatch.setattr(wakeups, "time", clock)
    monkeypatch.setattr(wakeups, "KEPT", 600)
    patient = {"socket_connect_timeout": PATIENCE, "socket_timeout": PATIENCE}
    settings.CACHES = {"default": {**settings.CACHES["default"], "OPTIONS": patient}}
    installation.identity()
    return clock


class Published(RecordingTaskQueue):
    """A task queue that records wake-ups, after the real rules for publishing."""

    def notify(self, queues: Any, *, message_priority: int | None = None) -> set[str]:
        return wakeups.notify(queues, message_priority=message_priority)


@pytest.fixture
def published() -> Iterator[Published]:
    before = task_queue.installed()
    recording = Published()
    task_queue.install(recording)
    yield recording
    task_queue.install(before)


def key(queue: str = "mail") -> str:
    return f"email_integration:wake:{installation.identity()}:{queue}"


def is_kept(queue: str = "mail") -> bool:
    return bool(caches["default"].get(key(queue)))


class OtherProcess:
    """Another process that submits mail. It shares cache and broker, but has its own record of questions
    to the cache.
    """

    def __init__(self) -> None:
        self._asked: dict[tuple[str, int | None], float] = {}

    def notify(self, *queues: str) -> None:
        ours = dict(wakeups._asked)
        wakeups._asked.clear()
        wakeups._asked.update(self._asked)
        try:
            wakeups.notify(queues or ("mail",))
        finally:
            self._asked = dict(wakeups._asked)
            wakeups._asked.clear()
            wakeups._asked.update(ours)


# -- the rules ------------------------------------------------------------------------------------------------------


def test_a_process_is_silent_for_20_ms_after_it_asked(published: Published, clock: Clock) -> None:
    assert QUIET == 0.02
    submitted()
    caches["default"].delete(key())
    clock.passes(QUIET * 0.99)
    submitted()
    assert published.woken == ["mail"]
    clock.passes(QUIET * 0.02)
    submitted()
    assert published.woken == ["mail", "mail"]


def test_a_process_that_found_the_key_is_silent_too(published: Published, clock: Clock, monkeypatch: Any) -> None:
    """Its question counts, not only its own wake-ups: it need not ask again so soon."""
    OtherProcess().notify()
    submitted()
    monkeypatch.setattr(RedisCache, "add", None)
    clock.passes(QUIET / 2)
    submitted()
    assert published.woken == ["mail"]


def test_while_the_key_is_in_the_cache_no_process_publishes(published: Published, clock: Clock) -> None:
    submitted()
    for _ in range(5):
        clock.passes(1)
        OtherProcess().notify()
        submitted()
    assert published.woken == ["mail"]


def test_the_key_is_gone_after_2_seconds(published: Published, monkeypatch: Any) -> None:
    monkeypatch.setattr(wakeups, "KEPT", KEPT)
    submitted()
    seconds = caches["default"]._cache.get_client().pttl(caches["default"].make_key(key())) / 1000  # type: ignore[attr-defined]
    assert KEPT - 1 < seconds <= KEPT == 2


def test_queues_do_not_silence_one_another(published: Published) -> None:
    for priority in ("bulk", "normal", "high"):
        submitted(priority=priority)
    assert published.woken == ["mail.bulk", "mail", "mail.high"]


def test_installations_that_share_a_cache_do_not_silence_one_another(published: Published) -> None:
    submitted()
    Installation.objects.update(identity="another")
    installation.forget()
    try:
        OtherProcess().notify()
    finally:
        Installation.objects.all().delete()
        installation.forget()
    assert published.woken == ["mail", "mail"]


def test_the_clock_is_set_before_the_cache_is_asked(published: Published, clock: Clock, monkeypatch: Any) -> None:
    """The dispatcher waits long enough for all mail committed within 20 ms of the question, however long the answer
    takes.
    """
    answered: list[Fraction] = []
    add = RedisCache.add

    def slow(self: Any, *given: Any, **how: Any) -> Any:
        added = add(self, *given, **how)
        clock.passes(0.3)
        answered.append(clock.now)
        return added

    monkeypatch.setattr(RedisCache, "add", slow)
    wakeups.Stay("mail")
    submitted()
    submitted()  # more than 20 ms after the question, but just after the answer
    assert len(answered) == 2


def test_a_name_that_no_cache_takes_as_a_key_is_none_of_it(published: Published, recwarn: Any) -> None:
    for queue in ("with blanks", "q" * 255, '{"exchange": "x", "queue": "y"}', "ü\n"):
        wakeups.notify([queue])
        OtherProcess().notify(queue)
    assert published.woken == ["with blanks", "q" * 255, '{"exchange": "x", "queue": "y"}', "ü\n"]
    assert not recwarn.list


def test_what_is_known_of_queues_has_an_end(published: Published) -> None:
    for number in range(3 * wakeups._MOST):
        wakeups._asked[f"q{number}", None] = 0.0
        wakeups.notify([f"q{number}"]) if number % 500 == 0 else None
    assert len(wakeups._asked) <= wakeups._MOST + 501


# -- failures -------------------------------------------------------------------------------------------------------


def test_when_publishing_fails_key_and_clock_are_as_before(published: Published, caplog: Any) -> None:
    published.broken = ConnectionError("kim@example.com")
    submitted()
    assert not is_kept()
    assert "ConnectionError" in caplog.text
    assert "kim@example.com" not in caplog.text
    published.broken = None
    submitted()
    assert published.woken == ["mail"]


def test_what_ends_the_process_amid_publishing_leaves_no_key(published: Published) -> None:
    """The same applies to a time limit that Celery or gevent raises."""
    published.broken = KeyboardInterrupt()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        wakeups.notify(["mail"])
    assert not is_kept()
    assert wakeups._asked == {}


def test_what_ends_the_process_amid_the_question_leaves_no_key(published: Published, monkeypatch: Any) -> None:
    add = RedisCache.add

    def adding(self: Any, name: str, *given: Any, **how: Any) -> Any:
        added = add(self, name, *given, **how)
        if name.endswith("mail.bulk"):
            raise KeyboardInterrupt
        return added

    monkeypatch.setattr(RedisCache, "add", adding)
    with pytest.raises(KeyboardInterrupt):
        wakeups.notify(["mail", "mail.bulk", "mail.high"])
    assert published.woken == ["mail"]
    assert [is_kept(queue) for queue in ("mail", "mail.bulk", "mail.high")] == [True, False, False]
    assert set(wakeups._asked) == {("mail", None)}


def test_one_of_several_queues_fails_by_itself(published: Published, clock: Clock) -> None:
    published.deaf = {"mail.bulk"}
    with transaction.atomic():
        for priority in ("normal", "bulk", "high"):
            submitted(priority=priority)
    assert published.woken == ["mail", "mail.high"]
    assert [is_kept(queue) for queue in ("mail", "mail.bulk", "mail.high")] == [True, False, True]
    published.deaf.clear()
    with transaction.atomic():
        for priority in ("normal", "bulk", "high"):
            submitted(priority=priority)
    assert published.woken == ["mail", "mail.high", "mail.bulk"]


def test_a_broker_that_is_away_deletes_no_key_of_a_dispatcher(published: Published) -> None:
    """The keys of queues that were not tried stay in the cache."""
    Stay("mail.high")
    published.broken = ConnectionError()
    wakeups.notify(["mail", "mail.high"])
    assert [is_kept(queue) for queue in ("mail", "mail.high")] == [False, True]


def test_without_the_cache_it_goes_by_the_clock_alone(published: Published, clock: Clock, valkey: Valkey) -> None:
    valkey.stop()
    for _ in range(6):
        submitted()
        clock.passes(QUIET / 2)
    assert published.woken == ["mail"] * 3


def has_answered() -> None:
    """Let the cache answer this process once, so that its connection may have been closed since."""
    wakeups._is_set("another queue")


@pytest.mark.parametrize("before", [False, True])
def test_a_cache_that_is_away_is_not_asked_by_each(
    published: Published, clock: Clock, monkeypatch: Any, before: bool
) -> None:
    """Each question may take as long as the cache's own timeout, and a web request waits for it."""
    asked: list[int] = []
    if before:
        has_answered()

    def away(*_: Any, **__: Any) -> Any:
        asked.append(1)
        raise ConnectionError

    monkeypatch.setattr(RedisCache, "add", away)
    for _ in range(10):
        submitted()
        clock.passes(QUIET)
    assert len(published.woken) == 10
    assert len(asked) == (2 if before else 1)
    monkeypatch.undo()
    monkeypatch.setattr(wakeups, "time", clock)
    clock.passes(wakeups._PAUSE)
    submitted()
    assert is_kept()


def test_a_connection_that_was_cut_is_no_failure_of_the_cache(published: Published, valkey: Valkey) -> None:
    submitted()
    with Redis.from_url(valkey.url) as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal")
    wakeups._asked.clear()
    submitted()
    assert published.woken == ["mail"]


def test_a_key_whose_reply_was_lost_stops_no_wake_up(published: Published, monkeypatch: Any) -> None:
    """The key is in the cache, and the process that asks again has set it itself."""
    has_answered()
    add = RedisCache.add
    asked: list[int] = []

    def loses(self: Any, *given: Any, **how: Any) -> Any:
        added = add(self, *given, **how)
        asked.append(1)
        if len(asked) == 1:
            raise ConnectionError
        return added

    monkeypatch.setattr(RedisCache, "add", loses)
    submitted()
    assert (len(asked), published.woken) == (2, ["mail"])


def test_a_cache_that_takes_long_to_fail_is_asked_once(published: Published, clock: Clock, monkeypatch: Any) -> None:
    has_answered()
    asked: list[int] = []

    def away(*_: Any, **__: Any) -> Any:
        asked.append(1)
        clock.passes(1)
        raise TimeoutError

    monkeypatch.setattr(RedisCache, "add", away)
    submitted()
    assert (len(asked), published.woken) == (1, ["mail"])


@pytest.mark.parametrize("backend", ["locmem.LocMemCache", "dummy.DummyCache"])
def test_a_cache_that_is_not_shared_stops_no_wake_up(
    published: Published, clock: Clock, settings: Any, backend: str
) -> None:
    """The key that a dispatcher deletes is in another process's memory."""
    settings.CACHES = {"default": {"BACKEND": f"django.core.cache.backends.{backend}"}}
    assert not is_shared(caches["default"])
    for _ in range(3):
        submitted()
        clock.passes(QUIET)
    assert published.woken == ["mail"] * 3
    stay = Stay("mail")
    stay.refresh()
    assert stay.ended(lambda: None) is None
    assert stay.handed_over()


def test_a_cache_that_silently_stores_nothing_stops_no_wake_up(
    published: Published, clock: Clock, monkeypatch: Any
) -> None:
    """For example the database cache when a write fails."""
    monkeypatch.setattr(RedisCache, "add", lambda *_, **__: False)
    for _ in range(3):
        submitted()
        clock.passes(QUIET)
    assert published.woken == ["mail"] * 3


def test_a_cache_in_a_transaction_is_left_alone(published: Published, clock: Clock, monkeypatch: Any) -> None:
    """A key in a database would be visible only after the commit, and would block others that add the same key."""
    monkeypatch.setattr(wakeups, "databases", lambda cache: ("default",))
    with transaction.atomic():
        wakeups.notify(["mail"])
        assert not is_kept()
    assert published.woken == ["mail"]


def test_a_cache_in_the_database_does(published: Published, clock: Clock, settings: Any) -> None:
    from django.core.management import call_command

    settings.CACHES = {
        "default": {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "wake_up_cache"}
    }
    call_command("createcachetable", verbosity=0)
    try:
        assert databases(caches["default"]) == ("default", "default")
        submitted()
        clock.passes(1)
        submitted()
        assert published.woken == ["mail"]
        assert Stay("mail").ended(lambda: None) is None
        clock.passes(1)
        submitted()
        assert published.woken == ["mail", "mail"]
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE wake_up_cache")


def test_an_unknown_installation_stops_no_wake_up(published: Published, clock: Clock, monkeypatch: Any) -> None:
    """The database has just failed: the wake-up is published without a key."""

    def fails() -> str:
        raise DatabaseError

    monkeypatch.setattr(installation, "identity", fails)
    for _ in range(2):
        wakeups.notify(["mail"])
        clock.passes(QUIET)
    assert published.woken == ["mail", "mail"]


# -- transactions ---------------------------------------------------------------------------------------------------


def test_a_transaction_that_is_rolled_back_leaves_no_wake_up_and_no_key(published: Published) -> None:
    def fails() -> None:
        with transaction.atomic():
            submitted()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert (published.woken, is_kept(), wakeups._asked) == ([], False, {})
    with transaction.atomic():
        submitted(priority="bulk")
    assert published.woken == ["mail.bulk"]


def test_nothing_is_woken_before_the_commit(published: Published) -> None:
    """A dispatcher would search, find nothing, and leave."""
    with transaction.atomic():
        submitted()
        assert (published.woken, is_kept()) == ([], False)
    assert published.woken == ["mail"]


def test_a_savepoint_that_is_rolled_back_takes_its_wake_up_along_and_no_other(published: Published) -> None:
    def fails() -> None:
        with transaction.atomic():
            submitted(priority="bulk")
            with transaction.atomic():
                submitted(priority="high")
            raise ZeroDivisionError

    with transaction.atomic():
        with pytest.raises(ZeroDivisionError):
            fails()
        with transaction.atomic():
            submitted()
    assert published.woken == ["mail"]
    assert not is_kept("mail.bulk")


def test_a_transaction_wakes_each_queue_once(published: Published, clock: Clock) -> None:
    """This also holds if it takes longer than a process stays silent, and if the broker fails."""
    with transaction.atomic():
        for number in range(30):
            with transaction.atomic():
                submitted(priority=("normal", "bulk")[number % 2])
    assert published.woken == ["mail", "mail.bulk"]
    tried: list[Any] = []
    published.wake = lambda queues, **_: tried.append(queues) or set(queues)  # type: ignore[method-assign,func-returns-value]
    clock.passes(10)
    caches["default"].clear()
    with transaction.atomic():
        for number in range(30):
            submitted(priority=("normal", "bulk")[number % 2])
    assert tried == [{"mail"}, {"mail.bulk"}]


def test_what_an_earlier_transaction_left_is_not_woken_for(published: Published) -> None:
    """Its hooks never ran, because the connection was lost."""
    with transaction.atomic():
        submitted(priority="bulk")
        connection.close()
    assert connection.connection is None
    submitted()
    assert published.woken == ["mail"]


def test_a_test_case_that_captures_the_hooks_has_the_queues_woken(published: Published) -> None:
    with transaction.atomic():
        submitted()
        with TestCase.captureOnCommitCallbacks(execute=True) as captured:
            submitted(priority="bulk")
            submitted(priority="bulk")
        assert len(captured) == 2
        assert "mail.bulk" in published.woken
        transaction.set_rollback(True)


def test_nothing_of_a_mail_is_held_until_the_commit(published: Published) -> None:
    """A hundred thousand mails in one transaction need as many hooks, but do not keep their contents in memory."""
    import gc
    import weakref

    with transaction.atomic():
        delivery = submitted()
        gone = weakref.ref(delivery)
        del delivery
        gc.collect()
        assert gone() is None


def test_threads_have_transactions_of_their_own(published: Published) -> None:
    def commits() -> None:
        with transaction.atomic():
            submitted(priority="bulk")

    with transaction.atomic() if connection.vendor != "sqlite" else transaction.atomic(savepoint=False):
        if connection.vendor == "sqlite":
            return  # one writer at a time
        submitted()
        assert in_threads(commits) == [None]
        assert published.woken == ["mail.bulk"]
    assert published.woken == ["mail.bulk", "mail"]


# -- dispatchers ----------------------------------------------------------------------------------------------------


def test_while_a_dispatcher_stays_nothing_is_published(published: Published, clock: Clock, valkey: Valkey) -> None:
    stay = Stay("mail")
    for _ in range(20):
        clock.passes(0.3)
        stay.refresh()
        submitted()
    assert published.woken == []


def test_a_dispatcher_that_stays_sets_the_key_each_second(clock: Clock, monkeypatch: Any) -> None:
    monkeypatch.setattr(wakeups, "KEPT", KEPT)
    sets: list[Fraction] = []
    known = RedisCache.set
    monkeypatch.setattr(
        RedisCache, "set", lambda self, *given, **how: (sets.append(clock.now), known(self, *given, **how))[1]
    )
    stay = Stay("mail")
    for _ in range(20):
        clock.passes(0.25)
        stay.refresh()
    assert [moment - 1000 for moment in sets] == [0, 1, 2, 3, 4, 5]


def test_a_dispatcher_leaves_in_one_order(clock: Clock) -> None:
    """It deletes the key, waits as long as any process may stay silent, and searches for mail."""
    did: list[str] = []
    stay = Stay("mail")
    assert is_kept()
    clock.meanwhile = lambda: did.append(f"waits, key {is_kept()}")
    left_at = clock.now

    def look() -> None:
        did.append(f"looks, key {is_kept()}, after {float(clock.now - left_at):.3f} s")

    assert stay.ended(look) is None
    assert did == ["waits, key False", "looks, key False, after 0.020 s"]
    assert not is_kept()


def test_a_dispatcher_that_finds_mail_at_the_last_look_stays(published: Published, clock: Clock) -> None:
    stay = Stay("mail")
    assert stay.ended(lambda: ["mail"]) == ["mail"]
    assert is_kept()
    submitted()
    assert published.woken == []
    assert stay.ended(lambda: None) is None
    assert not is_kept()


def test_an_error_at_the_last_look_leaves_no_key() -> None:
    def look() -> None:
        raise DatabaseError

    with pytest.raises(DatabaseError):
        Stay("mail").ended(look)
    assert not is_kept()


# Interleavings: a mail is committed at each point between the last claim that found nothing and the end of the
# dispatcher. Its process has just asked, has found the key before, or knows nothing. Either the last search finds the
# mail, or another dispatcher is woken. A mail is visible from its commit on; its process asks afterwards.


def unsent() -> list[str]:
    return list(Delivery.objects.filter(status="queued").values_list("pk", flat=True))


@pytest.mark.parametrize("point", ["before the key is deleted", "after the key is deleted", "after the last look"])
@pytest.mark.parametrize("asked", ["never", "just now, and found the key", "19 ms ago, and found the key"])
def test_no_mail_is_missed_by_a_dispatcher_that_leaves(
    published: Published, clock: Clock, monkeypatch: Any, point: str, asked: str
) -> None:
    sent: list[str] = []

    def look() -> list[str]:
        found = [pk for pk in unsent() if pk not in sent]
        sent.extend(found)
        return found

    stay = Stay("mail")
    assert look() == []  # the last claim
    if asked != "never":
        wakeups.notify(["mail"])  # for a mail that was sent
        clock.passes(0.019 if asked.startswith("19") else 0.0)
    delete = RedisCache.delete

    def deleting(self: Any, name: str, *given: Any, **how: Any) -> Any:
        if point == "before the key is deleted":
            submitted()
        deleted = delete(self, name, *given, **how)
        if point == "after the key is deleted":
            submitted()
        return deleted

    monkeypatch.setattr(RedisCache, "delete", deleting)
    stays_on = stay.ended(look)
    monkeypatch.setattr(RedisCache, "delete", delete)
    if point == "after the last look":
        submitted()
    if published.woken:
        look()  # by the dispatcher that was woken
    assert sent == unsent() != []
    assert stays_on or published.woken


def test_a_mail_committed_in_silence_while_the_dispatcher_waits_is_found(published: Published, clock: Clock) -> None:
    """The process asked before the key was deleted. It commits after that and stays silent."""
    stay = Stay("mail")
    wakeups.notify(["mail"])
    clock.passes(0.005)
    clock.meanwhile = submitted  # 10 ms into the wait, 15 ms after the question
    assert stay.ended(unsent)
    assert published.woken == []


def test_without_the_wait_that_mail_would_be_missed(published: Published, clock: Clock, monkeypatch: Any) -> None:
    """This proves that the test above can fail."""
    stay = Stay("mail")
    wakeups.notify(["mail"])
    monkeypatch.setattr(clock, "sleep", lambda seconds: None)
    assert not stay.ended(unsent)
    clock.passes(0.015)
    submitted()
    assert published.woken == []


def test_a_mail_whose_process_asks_amid_the_wait_wakes_another(published: Published, clock: Clock) -> None:
    """Its process found no key. The mail is also found, so the other dispatcher searches once without need."""
    stay = Stay("mail")
    clock.meanwhile = submitted
    assert stay.ended(unsent)
    assert published.woken == ["mail"]


def test_of_two_dispatchers_the_last_one_looks_for_both(published: Published, clock: Clock) -> None:
    """One leaves, the other sets the key again, and a process finds it: its mail is for the other dispatcher."""
    one, other = Stay("mail"), Stay("mail")
    assert one.ended(unsent) == []
    clock.passes(wakeups.KEPT / 2)
    other.refresh()
    OtherProcess().notify()
    submitted()
    assert published.woken == []
    assert other.ended(unsent) != []


def test_a_dispatcher_that_hands_over_wakes_another_at_once(published: Published, clock: Clock) -> None:
    stay = Stay("mail")
    assert stay.handed_over()
    assert published.woken == ["mail"]
    submitted()
    assert (published.woken, is_kept()) == (["mail"], True)


@pytest.mark.parametrize("failure", ["broker", "queue"])
def test_a_dispatcher_that_cannot_hand_over_leaves_no_key(published: Published, failure: str) -> None:
    stay = Stay("mail")
    published.broken = ConnectionError() if failure == "broker" else None
    published.deaf = {"mail"}
    assert not stay.handed_over()
    published.broken = None
    published.deaf = set()
    assert not is_kept()
    submitted()
    assert published.woken == ["mail"]


def test_a_dispatcher_that_fails_leaves_it_to_the_next_mail(published: Published) -> None:
    Stay("mail").failed()
    assert (published.woken, is_kept()) == ([], False)
    submitted()
    assert published.woken == ["mail"]


def test_one_wake_up_to_join_is_outstanding_at_most(published: Published, clock: Clock) -> None:
    busy, other = Stay("mail"), Stay("mail")
    for stay in (busy, other, busy):
        stay.join()
    assert published.woken == ["mail"]
    wakeups.joined("mail")  # it has arrived
    other.join()
    busy.join()
    assert published.woken == ["mail", "mail"]


def test_a_handover_publishes_no_wake_up_while_one_to_join_is_outstanding(published: Published) -> None:
    """So there is at most one wake-up more than dispatchers, however long there is mail."""
    one, other = Stay("mail"), Stay("mail")
    one.join()
    assert one.handed_over()
    assert (published.woken, is_kept()) == (["mail"], True)
    wakeups.joined("mail")
    assert other.handed_over()
    assert published.woken == ["mail", "mail"]


def test_a_wake_up_to_join_that_fails_is_not_outstanding(published: Published) -> None:
    stay = Stay("mail")
    published.broken = ConnectionError()
    stay.join()
    published.broken, published.deaf = None, {"mail"}
    stay.join()
    published.deaf = set()
    stay.join()
    assert published.woken == ["mail"]


# -- many processes -------------------------------------------------------------------------------------------------


def test_200_processes_wake_a_dispatcher_that_stays_once(published: Published, clock: Clock) -> None:
    """Together they commit 500 times a second, for ten seconds of the test's clock. They take turns, so all of them
    ask.
    """
    others = [OtherProcess() for _ in range(200)]
    others[0].notify()
    stay = Stay("mail")
    for number in range(5000):
        others[number % 200].notify()
        clock.passes(1 / 500)
        stay.refresh()
    assert published.woken == ["mail"]


def test_without_a_dispatcher_there_is_one_wake_up_for_each_2_seconds(published: Published, clock: Clock) -> None:
    """All workers are busy with other tasks, so the key expires."""
    others = [OtherProcess() for _ in range(200)]
    for number in range(5000):
        if number % 1000 == 0:
            caches["default"].delete(key())  # two seconds have passed
        others[number % 200].notify()
        clock.passes(1 / 500)
    assert published.woken == ["mail"] * 5


def _submit(number: int, ready: Any, counts: Any, processes: int, rate: float, seconds: float) -> None:
    """Notify at even intervals, as a process that commits mails does. The processes start one after the other."""
    wakeups.forget()
    wakeups._is_set("open")  # connects to cache and broker, as in a process that submits all day
    task_queue.installed().wake({"warm"})
    ready.wait(PATIENCE)
    pause = processes / rate
    at = time.monotonic() + pause * number / processes
    end = time.monotonic() + seconds
    while at < end:
        time.sleep(max(0.0, at - time.monotonic()))
        task_queue.notify(["mail"])
        counts[number] += 1
        at += pause


@pytest.mark.parametrize("processes", [8, pytest.param(200, marks=[pytest.mark.extra, pytest.mark.timeout(900)])])
def test_wake_ups_do_not_pile_up(valkey: Valkey, processes: int, settings: Any, monkeypatch: Any) -> None:
    """Together they submit 500 mails a second, for two seconds, with a dispatcher that stays: one message in the
    broker.
    """
    monkeypatch.setattr(wakeups, "time", time)
    monkeypatch.setattr(wakeups, "KEPT", KEPT)
    # 200 processes on two cores must not run into the timeout.
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "BROKER_TIMEOUT": PATIENCE}
    seconds, rate = 2.0, 500.0
    context = multiprocessing.get_context("fork")
    began, counts = context.Value("d"), context.Array("i", processes)
    over = threading.Event()
    absent: list[float] = []

    def begin() -> None:
        began.value = time.monotonic()

    def dispatcher() -> None:
        """Take the first wake-up, as a worker does, and stay."""
        while not over.is_set() and not messages(valkey, "mail"):
            time.sleep(0.001)
        stay = Stay("mail")
        at = time.monotonic()
        absent.append(at - began.value)
        while not over.wait(0.02):
            stay.refresh()
            absent.append(time.monotonic() - at)
            at = time.monotonic()

    ready = context.Barrier(processes + 1, begin)

    connection.close()
    given = (ready, counts, processes, rate, seconds)
    children = [context.Process(target=_submit, args=(number, *given)) for number in range(processes)]
    for child in children:
        child.start()
    # It runs in the context of this thread, and so has this thread's connection to the cache.
    stays = threading.Thread(target=contextvars.copy_context().run, args=(dispatcher,))
    stays.start()
    ready.wait(PATIENCE)
    for child in children:
        child.join(PATIENCE)
    found = messages(valkey, "mail")
    over.set()
    stays.join(PATIENCE)
    print(f"{processes} processes: {len(found)} wake-ups for {sum(counts)} commits")
    assert [child.exitcode for child in children] == [0] * processes
    assert {one.task for one in found} == {names.DISPATCH}
    assert sum(counts) >= rate * seconds * 0.9
    # If the machine delays the dispatcher's start or refresh for more than a second, the key may expire.
    assert 1 <= len(found) <= 1 + sum(int(gap) for gap in absent)


@pytest.mark.parametrize("interval", [0.5, 5.0, 120.0])
def test_a_sweep_is_heard_by_a_host_whose_clock_is_ten_minutes_ahead(settings: Any, interval: float) -> None:
    """Celery compares the clocks of two hosts, and the only worker left may run on the host that is ahead."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SWEEP_INTERVAL": interval}
    assert sweep_options()["expires"] > 600
    assert sweep_options()["expires"] >= 12 * interval
