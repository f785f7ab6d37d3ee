"""The offered recipients: a fault of one recipient does not affect the others, in the queue and sent directly."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone

from config.local.processes import PATIENCE
from email_integration import routing
from email_integration.exceptions import DeliveryDeferred, DeliveryFailed
from email_integration.models import CircuitBreaker, Delivery, DeliveryAttempt, ServerQuirks
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Deferred
from email_integration.routing import breaker
from email_integration.sending import direct
from email_integration.sending.sessions import pool
from email_integration.smtp import Relay
from tests.deliveries import RecordingTaskQueue, ago, attempt, due_again, mail, send_due, statuses, submitted
from tests.peculiar import HangUp, PeculiarServer, Peer
from tests.relays import config_for

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _task_queue(task_queue: RecordingTaskQueue) -> Any:
    yield
    pool.close()


def many(number: int) -> list[str]:
    return [f"u{place}@example.com" for place in range(number)]


def got(server: PeculiarServer) -> list[str]:
    """Return the recipients that got the mail, sorted, one entry for each copy."""
    return sorted(address for address, _ in server.arrived.elements())


class Refusing(PeculiarServer):
    """A server that gives set replies to some recipients and accepts a limited number at a time."""

    def __init__(self, *, at_a_time: int = 1000, **replies: str) -> None:
        super().__init__()
        self.at_a_time = at_a_time
        self.replies = replies

    def rcpt(self, peer: Peer, address: str) -> str:
        reply = self.replies.get(address.partition("@")[0], "250 ok")
        if reply.startswith("drop"):
            raise HangUp(reply.removeprefix("drop").strip())
        if reply[0] == "2" and len(peer.recipients) >= self.at_a_time:
            return "452 4.5.3 too many recipients"
        return reply


class RefusingContent(Refusing):
    """A server that refuses the content in every transaction after the first."""

    def dot(self, peer: Peer, content: bytes) -> str:
        return "250 ok" if not self.arrived else "554 5.6.0 no"


# -- in the queue ---------------------------------------------------------------------------------------------------


def test_deferred_recipients_do_not_block_the_others() -> None:
    """The deferred recipients fill a whole transaction. The other recipients are offered after them, and once."""
    with Refusing(**{f"u{place}": "450 4.2.1 not now" for place in range(10)}) as server:
        config_for(server, max_recipients=10)
        delivery = submitted(*many(35))
        attempt(delivery.pk)
        assert got(server) == sorted(many(35)[10:])
        row = Delivery.objects.get()
        assert (row.status, row.reason) == ("deferred", "10 of 35 recipients were deferred")
        assert all(statuses(delivery)[address] == "pending" for address in many(10))


@pytest.mark.parametrize("said", ["drop 550 5.1.1 no such user", "550 5.1.1 no such user"])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_one_that_is_refused_is_settled_and_the_others_get_it(said: str, place: int) -> None:
    with Refusing(**{f"u{place}": said}) as server:
        config_for(server)
        delivery = submitted(*many(5))
        attempt(delivery.pk)
        assert got(server) == sorted(set(many(5)) - {f"u{place}@example.com"})
        assert statuses(delivery)[f"u{place}@example.com"] == "failed"
        assert DeliveryAttempt.objects.filter(outcome="accepted").exists()


def test_several_at_whom_it_hangs_up_are_settled_one_after_the_other() -> None:
    with Refusing(u1="drop 550 no", u3="drop 550 no", u5="drop 550 no") as server:
        config_for(server)
        delivery = submitted(*many(8))
        attempt(delivery.pk)
        assert got(server) == sorted(address for address in many(8) if address[1] in "02467")
        assert Delivery.objects.get().status == "accepted"


@pytest.mark.parametrize("said", ["drop", "drop 421 4.7.0 closing"])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_one_at_whom_it_hangs_up_for_now_is_left_and_the_others_get_it(said: str, place: int) -> None:
    with Refusing(**{f"u{place}": said}) as server:
        config_for(server)
        delivery = submitted(*many(5))
        attempt(delivery.pk)
        others = set(many(5)) - {f"u{place}@example.com"}
        assert set(got(server)) == others
        assert len(got(server)) == 4
        assert statuses(delivery)[f"u{place}@example.com"] == "pending"
        assert Delivery.objects.get().status == "deferred"


def test_a_server_that_hangs_up_at_everybody_is_not_asked_without_end() -> None:
    with Refusing(**{f"u{place}": "drop" for place in range(50)}) as server:
        config_for(server)
        attempt(submitted(*many(50)).pk)
        assert Delivery.objects.get().status == "deferred"
        assert server.connections <= 2


def test_a_content_that_is_refused_for_some_fails_for_those() -> None:
    with RefusingContent(at_a_time=10) as server:
        config_for(server)
        delivery = submitted(*many(25))
        attempt(delivery.pk)
        assert got(server) == sorted(many(10))
        found = statuses(delivery)
        assert [found[address] for address in many(25)] == ["accepted"] * 10 + ["failed"] * 15
        assert Delivery.objects.get().status == "accepted"
        assert server.verbs["MAIL"] == 3, "a recipient was not offered"


class OnlyASCII(PeculiarServer):
    offers = ("8BITMIME",)


def test_of_those_that_need_smtputf8_each_fails_alone() -> None:
    to = ["kim@example.com", "bü@example.com", "lee@example.com", "zoë@example.com"]
    with OnlyASCII() as server:
        config_for(server)
        delivery = submitted(*to)
        attempt(delivery.pk)
        assert got(server) == ["kim@example.com", "lee@example.com"]
        assert [statuses(delivery)[address] for address in to] == ["accepted", "failed"] * 2
        (item, *_) = [item for item in Delivery.objects.get().recipients if item["address"] == "bü@example.com"]
        assert "SMTPUTF8" in item["reason"]
        assert item["cause"] == "no_smtputf8"


def test_with_smtputf8_all_get_it() -> None:
    to = ["kim@example.com", "bü@example.com"]
    with PeculiarServer() as server:
        config_for(server)
        attempt(submitted(*to).pk)
        assert got(server) == sorted(to)


class Full(PeculiarServer):
    """A server that replies to a third recipient with a 452 of unknown meaning."""

    def rcpt(self, peer: Peer, address: str) -> str:
        return "452 no" if len(peer.recipients) == 2 else "250 ok"


def test_a_452_without_a_word_of_why_ends_a_transaction_and_teaches_nothing() -> None:
    with Full() as server:
        config_for(server, pipelining="off")
        attempt(submitted(*many(7)).pk)
        assert server.verbs["RCPT"] <= 7 + 3
        assert set(got(server)) >= set(many(7)) - {"u2@example.com", "u5@example.com"}
        assert not ServerQuirks.objects.exists()


@pytest.mark.parametrize("sessions", [1, 3])
def test_one_that_was_claimed_with_others_is_offered_to_the_rest_by_itself(settings: Any, sessions: int) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SESSIONS": sessions}
    with Refusing(full="452 no") as server:
        config_for(server, pipelining="off")
        to = (["a@example.com"], ["full@example.com", "b@example.com"], ["c@example.com"])
        for some in to:
            submitted(*some)
        send_due()
        assert got(server) == ["a@example.com", "b@example.com", "c@example.com"]
        assert not Delivery.objects.exclude(batch="").exists()


def time_passes() -> None:
    """Make deferred mail due again."""
    CircuitBreaker.objects.update(probe_at=ago(1))
    due_again()


class Scripted(Refusing):
    """A server with a set reply to DATA or to the final dot if a certain recipient is in the transaction."""

    verb, whole, only = "", "", ""

    def _or(self, verb: str, peer: Peer, usual: str) -> str:
        if verb != self.verb or not any(self.only in address for address in peer.recipients):
            return usual
        if not self.whole:
            raise HangUp
        return self.whole

    def data(self, peer: Peer) -> str:
        return self._or("DATA", peer, super().data(peer))

    def dot(self, peer: Peer, content: bytes) -> str:
        return self._or("DOT", peer, "250 ok")


@pytest.mark.parametrize("verb", ["DATA", "DOT"])
@pytest.mark.parametrize("pipelining", ["off", "automatic"])
@pytest.mark.parametrize("try_it", [attempt, lambda pk: send_due()], ids=["inline", "crew"])
def test_a_content_that_is_refused_settles_nothing_of_those_that_were_put_off(
    verb: str, pipelining: str, try_it: Callable[[str], Any]
) -> None:
    with Scripted(u1="450 4.7.1 greylisted") as server:
        server.verb, server.whole = verb, "550 5.1.1 no such user"
        config_for(server, pipelining=pipelining)
        delivery = submitted(*many(3))
        try_it(delivery.pk)
        assert list(statuses(delivery).values()) == ["failed", "pending", "failed"]
        assert Delivery.objects.get().due_at > timezone.now() + dt.timedelta(seconds=200), (
            "the delay is shorter than greylisting needs"
        )
        server.verb, server.replies = "", {}
        time_passes()
        try_it(delivery.pk)
        assert got(server) == ["u1@example.com"]


@pytest.mark.parametrize("verb", ["DATA", "DOT"])
def test_a_refused_recipient_stays_refused_when_the_content_is_deferred(verb: str) -> None:
    with Scripted(u1="550 5.1.1 no such user") as server:
        server.verb, server.whole = verb, "451 4.3.0 later"
        config_for(server)
        delivery = submitted(*many(3))
        attempt(delivery.pk)
        assert list(statuses(delivery).values()) == ["pending", "failed", "pending"]


LATER = ("451 4.3.0 later", "452 4.2.2 full", "550 5.7.1 relaying denied")


# A hang-up at the dot would leave the mail in doubt.
@pytest.mark.parametrize(("verb", "said"), [("DATA", ""), *itertools.product(("DATA", "DOT"), LATER)])
def test_recipients_with_a_deferred_content_do_not_block_the_others(verb: str, said: str) -> None:
    with Scripted() as server:
        server.verb, server.whole, server.only = verb, said, "u3@"
        config_for(server, max_recipients=10)
        delivery = submitted(*many(35), from_email="own@example.com")
        for _ in range(3):
            attempt(delivery.pk)
            time_passes()
        assert got(server) == sorted(many(35)[10:])
        assert statuses(delivery)["u3@example.com"] == "pending"


@pytest.mark.parametrize("said", ["drop", "drop 421 4.7.0 closing"])
@pytest.mark.parametrize("places", [(0, 1), (4, 5), (0, 1, 2, 3), (7, 8, 9)])
def test_several_at_whom_it_hangs_up_for_now_keep_it_from_no_others(said: str, places: tuple[int, ...]) -> None:
    with Refusing(**{f"u{place}": said for place in places}) as server:
        config_for(server)
        delivery = submitted(*many(10))
        for _ in range(5):
            attempt(delivery.pk)
            time_passes()
        assert got(server) == [address for place, address in enumerate(many(10)) if place not in places]


@pytest.mark.parametrize("number", [5, 30])
@pytest.mark.parametrize("said", ["drop 550 5.1.8 sender rejected", "550 5.1.8 sender rejected"])
def test_a_refused_sender_of_the_configuration_settles_no_recipient(said: str, number: int) -> None:
    with Refusing(**{f"u{place}": said for place in range(number)}) as server:
        config_for(server)
        delivery = submitted(*many(number))
        attempt(delivery.pk)
        assert set(statuses(delivery).values()) == {"pending"}


@pytest.mark.parametrize("said", ["drop", "drop 450 4.2.1 not now", "450 4.2.1 not now", "drop 421 4.7.0 closing"])
def test_recipients_that_need_smtputf8_do_not_fail_the_others(said: str) -> None:
    with Refusing(kim=said) as server:
        server.offers = ("8BITMIME",)
        config_for(server)
        delivery = submitted("kim@example.com", "bü@example.com", "zoë@example.com")
        attempt(delivery.pk)
        assert statuses(delivery)["kim@example.com"] == "pending"


class TooManyErrors(Refusing):
    """A server that refuses MAIL on a connection on which it has refused a recipient."""

    def mail(self, peer: Peer, line: str) -> str:
        return "250 ok" if len(peer.recipients) == peer.named else "554 5.7.0 too many errors"

    def end(self, peer: Peer) -> None:
        refused = peer.named - len(peer.recipients)
        super().end(peer)
        peer.named = refused


@pytest.mark.parametrize("at_a_time", [10, 1])
def test_a_sender_that_was_taken_is_not_refused_later_in_the_same_session(at_a_time: int) -> None:
    with TooManyErrors(**{f"u{place}": "550 5.1.1 no such user" for place in range(22)}) as server:
        config_for(server, max_recipients=at_a_time)
        delivery = submitted(*many(35), from_email="own@example.com")
        for _ in range(2):
            attempt(delivery.pk)
            time_passes()
        assert got(server) == sorted(many(35)[22:])
        assert list(statuses(delivery).values()) == ["failed"] * 22 + ["accepted"] * 13


# -- directly -------------------------------------------------------------------------------------------------------


def test_a_direct_mail_goes_in_as_many_transactions_as_it_takes() -> None:
    with Refusing(at_a_time=10, u3="550 5.1.1 no") as server:
        config_for(server)
        outcome = direct.send_directly(mail(*many(25)))
        assert got(server) == sorted(set(many(25)) - {"u3@example.com"})
        assert sorted(outcome.accepted) == got(server)
        assert list(outcome.refused) == ["u3@example.com"]


class TooManyAtTheDot(PeculiarServer):
    def dot(self, peer: Peer, content: bytes) -> str:
        return "554 Too many recipients" if len(peer.recipients) > 10 else "250 ok"


def test_a_direct_mail_that_has_too_many_recipients_is_split() -> None:
    with TooManyAtTheDot() as server:
        config_for(server)
        outcome = direct.send_directly(mail(*many(25)))
        assert got(server) == sorted(many(25)) == sorted(outcome.accepted)


def test_of_a_direct_mail_that_fails_for_some_the_caller_learns() -> None:
    with RefusingContent(at_a_time=10) as server:
        config_for(server, timeout=PATIENCE)
        with pytest.raises(DeliveryFailed):
            direct.send_directly(mail(*many(25)))
        assert len(got(server)) == 10


def test_a_direct_mail_is_not_retried_at_once_because_a_probe_is_due() -> None:
    """Another process has tripped the breaker, and a probe is due."""
    with Refusing() as server:
        config_for(server)
        direct.send_directly(mail())
        relay = routing.active_relay()
        assert isinstance(relay, Relay)
        blocked = Deferred(cause=Cause.ACCOUNT_BLOCKED, reason="no")
        breaker.trip(relay, blocked, probing=False)
        CircuitBreaker.objects.update(probe_at=ago(1))
        server.replies = {"kim": "550 5.7.708 traffic not accepted from this IP"}
        with pytest.raises(DeliveryDeferred):
            direct.send_directly(mail())
        assert server.verbs["MAIL"] == 2


def test_a_direct_mail_reports_each_recipient_of_every_transaction() -> None:
    with Refusing(u2="450 4.2.1 not now", u3="450 4.2.1 not now", u4="450 4.2.1 not now") as server:
        config_for(server, max_recipients=2)
        outcome = direct.send_directly(mail(*many(5)))
        assert got(server) == many(2) == list(outcome.accepted)
        assert list(outcome.refused) == many(5)[2:]


class TakesOne(PeculiarServer):
    """A server that accepts one mail and has no capacity for more."""

    def greeting(self, peer: Peer) -> str:
        if self.arrived:
            raise HangUp("421 later")
        return "220 hello"

    def mail(self, peer: Peer, line: str) -> str:
        return "250 ok" if not self.arrived else "421 later"


@pytest.mark.parametrize("kind", [TakesOne, lambda: Refusing(u3="drop")])
def test_a_direct_mail_that_some_have_is_not_said_to_go_another_time(kind: Callable[[], PeculiarServer]) -> None:
    """A caller who sends the whole mail again would send duplicates."""
    with kind() as server:
        config_for(server, max_recipients=2)
        with pytest.raises(DeliveryFailed, match=r"accepted for \d of 4 recipients"):
            direct.send_directly(mail(*many(4)))
        assert 2 <= len(got(server)) < 4
