"""Borrowing and returning sessions."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from config.local.processes import PATIENCE, free_port, wait_until
from email_integration.smtp import (
    CannotConnect,
    ConnectionLost,
    Envelope,
    Limits,
    Opening,
    Phase,
    Pool,
    PoolBusy,
    Refused,
    Relay,
    Session,
)
from email_integration.smtp import pool as pools
from email_integration.smtp.session import QUIT_TIMEOUT
from email_integration.smtpd import Fault, SMTPServer
from tests.relays import patient_but, relay_to, soon

Serve = Callable[..., SMTPServer]

LIMITS = Limits(idle=60, age=60, transactions=1000, tries=2)


class Limited:
    """Limits that a test can change."""

    now = LIMITS


@pytest.fixture
def limited() -> Limited:
    return Limited()


@pytest.fixture
def pool(limited: Limited) -> Iterator[Pool]:
    made = Pool(lambda: limited.now)
    yield made
    made.close()


def send(session: Session) -> None:
    session.begin(
        Opening(envelope=Envelope(sender="a@example.com", recipients=("kim@example.com",)), size=10, eight_bit=False)
    )
    session.write(b"Subject: s\r\n\r\n")
    session.finish(timeout=5)


def lend(pool: Pool, relay: Relay, *, fresh: bool = False) -> Session:
    with pool.session(relay, fresh=fresh) as session:
        send(session)
    return session


def test_a_session_is_lent_again(smtp_server: Serve, pool: Pool) -> None:
    server = smtp_server()
    relay = relay_to(server)
    first = lend(pool, relay)
    assert repr(pool) == "<Pool idle=1>"
    assert lend(pool, replace(relay)) is first
    assert len(server.sessions) == 1


def test_a_server_that_lets_us_have_no_more_is_not_at_fault(smtp_server: Serve, pool: Pool) -> None:
    """A caller that needs another session waits for one of the open ones. For a while, no further session is opened."""
    server = smtp_server()
    relay = relay_to(server)
    done = threading.Event()

    def borrow() -> int:
        with pool.session(relay) as session:
            send(session)
            done.wait(PATIENCE)
            return session.transactions

    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(borrow)
        wait_until(lambda: len(server.messages) == 1, what="the first mail")
        server.inject(Fault(verb="CONNECT", reply="421 4.7.0 Too many connections", times=None))
        others = [threads.submit(borrow) for _ in range(2)]
        wait_until(lambda: pool.most(relay) == 1, what="the learned limit of sessions")
        done.set()
        assert sorted(one.result(PATIENCE) for one in (first, *others)) == [1, 2, 3]
    assert len([one for one in server.sessions if one.transactions]) == 1


def test_half_as_many_sessions_are_open_for_a_while_where_a_server_limits_us(
    smtp_server: Serve, pool: Pool, limited: Limited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least one remains. Other relays are not affected."""
    limited.now = replace(LIMITS, size=5)
    relay, other = (relay_to(smtp_server()) for _ in range(2))
    allowed = []
    for _ in range(4):
        pool.reduce(relay)
        allowed.append(pool.most(relay))
    assert allowed == [2, 1, 1, 1]
    assert pool.most(other) == 5
    lend(pool, relay)
    monkeypatch.setattr(pools, "_ALLOWED_FOR", 0.0)
    pool.reduce(relay)
    assert pool.most(relay) == 5


def test_a_session_is_for_one_borrower_at_a_time(smtp_server: Serve, pool: Pool) -> None:
    relay = relay_to(smtp_server())
    with pool.session(relay) as one, pool.session(relay) as other:
        assert one is not other
    assert repr(pool) == "<Pool idle=2>"


@pytest.mark.parametrize("change", [{"password": "other"}, {"timeout": 4.0}, {"name": "renamed"}])
def test_a_session_is_for_the_very_relay_it_was_opened_for(
    smtp_server: Serve, pool: Pool, change: dict[str, object]
) -> None:
    server = smtp_server(any_auth=True, user="user")
    relay = relay_to(server, username="user", password="password")
    assert lend(pool, relay) is not lend(pool, replace(relay, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize("limits", [{"idle": 0.0}, {"age": 0.0}, {"transactions": 1}])
def test_a_session_that_is_past_a_limit_is_quit_and_replaced(
    smtp_server: Serve, pool: Pool, limited: Limited, limits: dict[str, float]
) -> None:
    server = smtp_server()
    relay = relay_to(server)
    first = lend(pool, relay)
    limited.now = replace(LIMITS, **limits)  # type: ignore[arg-type]
    assert lend(pool, relay) is not first
    assert first.is_closed
    assert server.sessions[0].verbs[-1] == "QUIT"
    assert repr(pool) == "<Pool idle=0>"


def test_refused_mails_count_as_transactions(smtp_server: Serve, pool: Pool) -> None:
    server = smtp_server(faults=[Fault(verb="MAIL", reply="550 5.7.1 No")])
    with pool.session(relay_to(server)) as session, pytest.raises(Refused):
        send(session)
    assert session.transactions == 1


@pytest.mark.parametrize("hang_up", [SMTPServer.drop_connections, SMTPServer.stop_politely])
def test_a_session_that_was_hung_up_on_is_replaced(
    smtp_server: Serve, pool: Pool, hang_up: Callable[[SMTPServer], None]
) -> None:
    server = smtp_server()
    first = lend(pool, relay_to(server))
    hang_up(server)
    if not server.is_running:
        server.start()
    wait_until(lambda: first.was_hung_up, what="the hang-up")
    assert lend(pool, relay_to(server)) is not first
    assert len(server.messages) == 2


def test_what_is_idle_for_too_long_is_left_without_another_mail(
    smtp_server: Serve, pool: Pool, limited: Limited
) -> None:
    """A worker without mail must not keep a server's connection open."""
    server = smtp_server()
    limited.now = replace(LIMITS, idle=0.2)
    with pool.session(relay_to(server)) as session:
        send(session)
    wait_until(lambda: not server.sessions[0].is_open, what="the end of the session")
    assert server.sessions[0].verbs[-1] == "QUIT"
    assert repr(pool) == "<Pool idle=0>"


def test_a_fresh_session_is_new_whatever_is_idle(smtp_server: Serve, pool: Pool) -> None:
    relay = relay_to(smtp_server())
    assert lend(pool, relay) is not lend(pool, relay, fresh=True)


def test_a_session_in_the_middle_of_a_mail_does_not_come_back(smtp_server: Serve, pool: Pool) -> None:
    server = smtp_server()
    with pool.session(relay_to(server)) as session:
        session.begin(
            Opening(
                envelope=Envelope(sender="a@example.com", recipients=("kim@example.com",)), size=10, eight_bit=False
            )
        )
    assert session.is_closed
    assert repr(pool) == "<Pool idle=0>"
    assert server.messages == []


def test_the_sessions_of_a_replaced_relay_are_quit_in_time(smtp_server: Serve, pool: Pool, limited: Limited) -> None:
    old, new = smtp_server(), smtp_server()
    lend(pool, relay_to(old))
    limited.now = replace(LIMITS, idle=0.0)
    lend(pool, relay_to(new))
    assert old.sessions[0].verbs[-1] == "QUIT"


def test_closing_the_pool_says_quit(smtp_server: Serve, pool: Pool) -> None:
    server = smtp_server()
    lend(pool, relay_to(server))
    pool.close()
    assert server.sessions[0].verbs[-1] == "QUIT"
    assert repr(pool) == "<Pool idle=0>"


def test_opening_is_tried_again_when_the_network_failed(smtp_server: Serve, pool: Pool) -> None:
    server = smtp_server(faults=[Fault(verb="CONNECT", drop=True, times=1)])
    lend(pool, relay_to(server))
    assert len(server.sessions) == 2


def test_a_server_that_said_no_is_not_asked_again(smtp_server: Serve, pool: Pool) -> None:
    server = smtp_server()
    with pytest.raises(Refused), pool.session(relay_to(server, password="wrong")):
        pass
    assert (len(server.sessions), server.failed_auths) == (1, 1)


def test_a_silent_server_delays_sending_only_once(smtp_server: Serve, pool: Pool) -> None:
    server = smtp_server(faults=[Fault(verb="CONNECT", hang=True)])
    with pytest.raises(ConnectionLost), pool.session(relay_to(server, timeout=0.3)):
        pass
    assert len(server.sessions) == 1


def test_tries_come_to_an_end(pool: Pool) -> None:
    relay = relay_to(SMTPServer(security="plain", user=None), port=free_port())
    with soon(), pytest.raises(CannotConnect), pool.session(relay):
        pass


# Later Python versions warn about forking with threads. This test proves it harmless here.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("security", ["plain", "starttls"])
def test_nothing_is_inherited_over_a_fork(smtp_server: Serve, pool: Pool, security: str) -> None:
    """The child's actions do not affect the parent's connection either."""
    server = smtp_server(security=security)
    relay = relay_to(server)
    session = lend(pool, relay)
    child = os.fork()
    if child == 0:
        try:
            clean = repr(pool) == "<Pool idle=0>" and session.is_closed
            pool.close()
            os._exit(0 if clean else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert lend(pool, relay) is session
    assert len(server.sessions) == 1


def test_many_threads_share_the_pool(smtp_server: Serve, pool: Pool) -> None:
    server = smtp_server()
    relay = relay_to(server)

    def work() -> None:
        for _ in range(5):
            lend(pool, relay)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.messages) == 20
    assert len(server.sessions) <= 4


# -- number of sessions -----------------------------------------------------------------------------------------------


def test_no_more_sessions_are_open_than_may_be(smtp_server: Serve, pool: Pool, limited: Limited) -> None:
    """The server's sessions are counted. It notices the end of a session a moment after QUIT."""
    limited.now = replace(LIMITS, size=3, transactions=4)
    server = smtp_server()
    relay = relay_to(server)
    most = 0

    def work() -> None:
        nonlocal most
        for _ in range(8):
            with pool.session(relay) as session:
                send(session)
                here = [one for one in list(server.sessions) if one.is_open and one.verbs[-1:] != ["QUIT"]]
                most = max(most, len(here))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.messages) == 64
    assert 1 < most <= 3


def test_a_thread_waits_for_a_session_when_all_are_lent(smtp_server: Serve, pool: Pool, limited: Limited) -> None:
    limited.now = replace(LIMITS, size=1)
    relay = relay_to(smtp_server())
    got: list[Session] = []

    def work() -> None:
        with pool.session(relay) as session:
            got.append(session)

    with pool.session(relay) as lent:
        thread = threading.Thread(target=work)
        thread.start()
        assert got == []
    thread.join(PATIENCE)
    assert got == [lent]


def test_a_session_that_is_waited_for_is_known(smtp_server: Serve, limited: Limited, pool: Pool) -> None:
    limited.now = replace(LIMITS, size=1)
    relay = relay_to(smtp_server(security="plain", user=None))
    assert not pool.is_awaited(relay)

    def wait_for_it() -> None:
        with pool.session(relay):
            assert not pool.is_awaited(relay)

    with pool.session(relay):
        waiting = threading.Thread(target=wait_for_it)
        waiting.start()
        wait_until(lambda: pool.is_awaited(relay), what="a waiting thread")
    waiting.join()
    assert not pool.is_awaited(relay)


def test_a_wait_that_times_out_does_not_blame_the_server(
    smtp_server: Serve, pool: Pool, limited: Limited, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited.now = replace(LIMITS, size=1)
    server = smtp_server()
    relay = relay_to(server, timeout=0.5)
    patient_but(monkeypatch)
    with pool.session(relay):
        started = time.monotonic()
        with soon(), pytest.raises(PoolBusy) as caught, pool.session(relay):
            pass
        assert time.monotonic() - started >= 0.5
        assert caught.value.phase is Phase.CONNECT
        assert str(caught.value) == "connect: no session became free within 0.5 s"
    with pool.session(relay):
        pass
    assert len(server.sessions) == 1


def test_each_relay_has_its_own_sessions(smtp_server: Serve, pool: Pool, limited: Limited) -> None:
    limited.now = replace(LIMITS, size=1)
    relay = relay_to(smtp_server())
    with pool.session(relay), pool.session(replace(relay, version="2")):
        assert repr(pool) == "<Pool idle=0>"


def test_a_session_that_could_not_be_opened_takes_no_room(smtp_server: Serve, pool: Pool, limited: Limited) -> None:
    limited.now = replace(LIMITS, size=1)
    server = smtp_server(faults=[Fault(verb="EHLO", reply="421 4.3.2 Later", times=3)])
    relay = relay_to(server)
    for _ in range(3):
        with pytest.raises(Refused), pool.session(relay):
            pass
    lend(pool, relay)


def test_a_session_that_breaks_takes_no_room(smtp_server: Serve, pool: Pool, limited: Limited) -> None:
    limited.now = replace(LIMITS, size=1)
    server = smtp_server(faults=[Fault(verb="MAIL", drop=True, times=3)])
    relay = relay_to(server)
    for _ in range(3):
        with pytest.raises(ConnectionLost), pool.session(relay) as session:
            send(session)
    lend(pool, relay)


def test_a_fresh_session_closes_an_idle_one_when_the_pool_is_full(
    smtp_server: Serve, pool: Pool, limited: Limited
) -> None:
    limited.now = replace(LIMITS, size=1)
    server = smtp_server()
    relay = relay_to(server)
    lend(pool, relay)
    with pool.session(relay, fresh=True):
        wait_until(lambda: not server.sessions[0].is_open, what="the end of the first session")
    assert server.sessions[0].verbs[-1] == "QUIT"
    assert repr(pool) == "<Pool idle=1>"


# -- before opening, and closing --------------------------------------------------------------------------------------


def test_before_opening_is_asked_for_a_new_connection_and_not_for_an_idle_one(smtp_server: Serve, pool: Pool) -> None:
    server = smtp_server()
    relay = relay_to(server)
    asked: list[int] = []
    for fresh in (False, False, True):
        with pool.session(relay, fresh=fresh, before_opening=lambda: asked.append(len(server.sessions))):
            pass
    assert asked == [0, 1]


def test_an_error_of_before_opening_is_raised_and_no_session_is_opened(
    smtp_server: Serve, pool: Pool, limited: Limited
) -> None:
    limited.now = replace(LIMITS, size=1)
    server = smtp_server()
    relay = relay_to(server)

    def refuse() -> None:
        raise LookupError("the circuit breaker is open")

    for _ in range(2):  # a refused opening occupies no slot
        with pytest.raises(LookupError), pool.session(relay, before_opening=refuse):
            pass
    assert server.sessions == []
    lend(pool, relay)


def test_others_are_served_while_one_is_being_opened(smtp_server: Serve, pool: Pool) -> None:
    """Work outside the lock does not block other callers."""
    relay, other = relay_to(smtp_server()), relay_to(smtp_server())
    begun, over = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        over.wait(PATIENCE)

    def work() -> None:
        with pool.session(relay, before_opening=slow):
            pass

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(PATIENCE)
    lend(pool, other)
    lend(pool, relay)
    over.set()
    thread.join(PATIENCE)


def test_discarding_says_quit_to_the_sessions_of_one_relay(smtp_server: Serve, pool: Pool) -> None:
    server, other = smtp_server(), smtp_server()
    old, new = relay_to(server, version="1"), relay_to(server, version="2")
    for relay in (old, new, relay_to(other)):
        lend(pool, relay)
    pool.discard(old)
    assert repr(pool) == "<Pool idle=2>"
    wait_until(lambda: not server.sessions[0].is_open, what="the end of the first session")
    assert server.sessions[0].verbs[-1] == "QUIT"
    assert server.sessions[1].is_open
    pool.discard(old)
    assert other.sessions[0].is_open


def test_a_server_that_does_not_answer_quit_delays_sending_only_briefly(
    smtp_server: Serve, pool: Pool, limited: Limited
) -> None:
    """Thirty sessions with a dead server are closed in the time of one.

    The test fails at a third of the time that thirty would take one after the other.
    """
    limited.now = replace(LIMITS, size=30)
    server = smtp_server(security="plain", faults=[Fault(verb="QUIT", hang=True)])
    relay = relay_to(server)
    with contextlib.ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(pool.session(relay))
    assert repr(pool) == "<Pool idle=30>"
    with soon(10 * QUIT_TIMEOUT):
        pool.close()
