"""Learned facts about a server: tried before they are believed, shared by all processes, and forgotten
after a while.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.db import OperationalError, models, transaction
from django.utils import timezone

from config.local.processes import PATIENCE
from email_integration import routing
from email_integration.models import ServerQuirks, SMTPConfig
from email_integration.routing import breaker, quirks
from email_integration.routing.quirks import KEPT, SharedMemory
from email_integration.sending.sessions import pool
from email_integration.smtp import Envelope, Memory, Opening, OutOfStep, Pipelining, Quirks, Relay, Session
from email_integration.smtp.quirks import Acquaintance
from tests.deliveries import Clock, send_due, submitted
from tests.peculiar import HangUp, PeculiarServer, Peer
from tests.relays import config_for, patient_but, relay_to

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _one_session(settings: Any) -> None:
    """With one session, the number of mails before the refusal is the same each time."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SESSIONS": 1}


RELAY = Relay(name="Primary", host="smtp.example.com", password="s3cret")


def begin(session: Session, *to: str) -> None:
    envelope = Envelope(sender="a@example.com", recipients=to or ("kim@example.com",))
    session.begin(Opening(envelope=envelope, size=3, eight_bit=False))


# -- one process ----------------------------------------------------------------------------------------------------


class SilentInGroups(PeculiarServer):
    """A server that reads only the first command of a group. With ``hangs`` it answers nothing."""

    hangs = False

    def heeds(self, lines: list[str]) -> list[str]:
        return lines[:1]

    def mail(self, peer: Peer, line: str) -> str:
        return "" if self.hangs else "250 ok"


class Recorder(Memory):
    """A memory that records each change that it is asked to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.learned: list[dict[str, Any]] = []

    def learn(self, relay: Relay, **changes: Any) -> None:
        self.learned.append(changes)


def test_a_suspected_quirk_is_tested_by_the_next_session_before_it_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    patient_but(monkeypatch, "GROUP")
    memory = Recorder()
    with SilentInGroups() as server:
        relay = relay_to(server, timeout=0.3)
        with pytest.raises(OutOfStep):
            begin(Session.open(relay, memory=memory))
        assert memory.learned == []
        second = Session.open(relay, memory=memory)
        assert second.quirks == Quirks(pipelining=Pipelining.NONE)
        begin(second)
        second.close()
        assert memory.learned == [{"pipelining": Pipelining.NONE}]


def test_a_server_that_is_just_silent_is_not_taken_for_one_without_pipelining(monkeypatch: pytest.MonkeyPatch) -> None:
    patient_but(monkeypatch, "GROUP")
    memory = Recorder()
    with SilentInGroups() as server:
        server.hangs = True
        relay = relay_to(server, timeout=0.3)
        for _ in range(2):
            with pytest.raises(Exception, match="did not answer"):
                begin(Session.open(relay, memory=memory))
        assert memory.learned == []
        third = Session.open(relay, memory=memory)
        assert third.quirks == Quirks()
        third.close()


def test_a_suspicion_is_of_one_relay_and_handed_out_once() -> None:
    memory = Memory()
    memory.suspect(RELAY, mails=10)
    memory.suspect(RELAY, recipients=5)
    other = Relay(name="Backup", host="smtp.example.com")
    assert memory.suspicion(other) == {}
    assert memory.suspicion(RELAY) == {"mails": 10, "recipients": 5}
    assert memory.suspicion(RELAY) == {}


def test_a_limit_of_mails_is_learned_when_two_sessions_have_ended_at_it() -> None:
    memory = Recorder()
    session = Acquaintance(RELAY, memory)
    for mails in (10, 3, 10):
        session.ended_after(mails)
    assert memory.learned == []
    session.ended_after(10)
    assert memory.learned == [{"mails": 10}]


# -- all processes --------------------------------------------------------------------------------------------------


def another_process() -> SharedMemory:
    return SharedMemory()


def test_all_processes_know_what_one_has_learned() -> None:
    SharedMemory().learn(RELAY, pipelining=Pipelining.GROUPS)
    SharedMemory().learn(RELAY, mails=10)
    assert another_process().recall(RELAY) == Quirks(pipelining=Pipelining.GROUPS, mails=10)
    row = ServerQuirks.objects.get()
    assert (row.key, row.smtp_config, row.host) == (breaker.key(RELAY), "Primary", "smtp.example.com")
    assert "s3cret" not in str(vars(row))


def test_changed_settings_start_anew() -> None:
    with PeculiarServer() as server:
        config = config_for(server)
        relay = routing.active_relay()
        assert isinstance(relay, Relay)
        SharedMemory().learn(relay, mails=10)
        config.timeout += 1
        config.save()
        changed = routing.active_relay()
        assert isinstance(changed, Relay)
        assert another_process().recall(changed) == Quirks()
        SharedMemory().learn(changed, mails=20)
        assert ServerQuirks.objects.count() == 1, "the limits of the earlier settings are still stored"


def test_what_was_learned_long_ago_is_found_out_anew() -> None:
    SharedMemory().learn(RELAY, mails=10)
    ServerQuirks.objects.update(learned_at=timezone.now() - KEPT - dt.timedelta(seconds=1))
    assert another_process().recall(RELAY) == Quirks()


def test_what_was_deleted_is_found_out_anew() -> None:
    memory = SharedMemory()
    memory.learn(RELAY, mails=10)
    ServerQuirks.objects.all().delete()
    assert memory.recall(RELAY) == Quirks()


def test_what_was_read_a_moment_ago_is_not_read_again(
    monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
) -> None:
    """Many sessions are opened at the same time. Facts that this process learns itself take effect at once."""
    clock, memory = Clock(), SharedMemory()
    monkeypatch.setattr(quirks, "time", clock)
    monkeypatch.setattr(quirks, "_READ_HOLDS", PATIENCE)
    assert memory.recall(RELAY) == Quirks()
    another_process().learn(RELAY, mails=10)
    with django_assert_num_queries(0):
        assert memory.recall(RELAY) == Quirks()
    with django_assert_num_queries(1):
        assert memory.recall(replace(RELAY, timeout=RELAY.timeout + 1)) == Quirks(), "other settings share the limits"
    memory.recall(RELAY)
    another_process().learn(RELAY, mails=20)
    clock.sleep(PATIENCE)
    assert memory.recall(RELAY) == Quirks(mails=20)
    memory.learn(RELAY, mails=30)
    assert memory.recall(RELAY) == Quirks(mails=30)


def test_what_was_read_before_it_was_saved_does_not_count_after_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread reads, and another learns before the first has stored its result."""
    memory, savepoint = SharedMemory(), quirks.savepoint

    @contextlib.contextmanager
    def learned_meanwhile(using: str) -> Iterator[None]:
        with savepoint(using):
            yield
        monkeypatch.setattr(quirks, "savepoint", savepoint)
        memory.learn(RELAY, mails=30)

    monkeypatch.setattr(quirks, "savepoint", learned_meanwhile)
    memory.recall(RELAY)
    assert memory.recall(RELAY) == Quirks(mails=30)


def test_a_transaction_that_is_open_is_not_held_up_and_does_not_undo_it() -> None:
    memory = SharedMemory()
    with transaction.atomic():
        memory.learn(RELAY, mails=10)
        assert not ServerQuirks.objects.exists()
        assert memory.recall(RELAY) == Quirks(mails=10)
    assert ServerQuirks.objects.get().mails == 10
    with transaction.atomic():
        memory.learn(RELAY, recipients=7)
        transaction.set_rollback(True)
    assert memory.recall(RELAY) == Quirks(mails=10, recipients=7), "this process does not know what it learned"


def test_a_database_that_is_away_costs_no_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SharedMemory()

    def away(*args: Any, **kwargs: Any) -> Any:
        raise OperationalError

    with monkeypatch.context() as patched:
        patched.setattr(models.QuerySet, "update_or_create", away)
        memory.learn(RELAY, recipients=50)
        patched.setattr(models.QuerySet, "first", away)
        assert memory.recall(RELAY) == Quirks(recipients=50)
    assert memory.recall(RELAY) == Quirks(recipients=50)
    assert another_process().recall(RELAY) == Quirks(recipients=50), (
        "the limit was not stored when the database was back"
    )
    ServerQuirks.objects.all().delete()
    assert memory.recall(RELAY) == Quirks()


# -- replies that teach nothing -------------------------------------------------------------------------------------


class Server(PeculiarServer):
    """A server with set replies to MAIL, RCPT and the dot. Each depends on the number of such commands so far, and on
    the number of accepted recipients.
    """

    def __init__(self, **says: Callable[[int, int], str | None]) -> None:
        super().__init__()
        self.says = says
        self.asked: Counter[str] = Counter()

    def _answer_to(self, verb: str, peer: Peer, usual: str) -> str:
        self.asked[verb] += 1
        said = self.says.get(verb, lambda times, named: None)(self.asked[verb], len(peer.recipients))
        if said is not None and (not said or said.startswith("421")):
            raise HangUp(said)
        return said or usual

    def mail(self, peer: Peer, line: str) -> str:
        return self._answer_to("mail", peer, "250 ok")

    def rcpt(self, peer: Peer, address: str) -> str:
        return self._answer_to("rcpt", peer, "250 ok")

    def dot(self, peer: Peer, content: bytes) -> str:
        return self._answer_to("dot", peer, "250 ok")


def send(*mails: int) -> None:
    """Send mails with these numbers of recipients through the configuration's server, over one session if it lasts."""
    for number in mails:
        submitted(*(f"u{place}@example.com" for place in range(number)))
    send_due()
    pool.close()


@pytest.mark.usefixtures("task_queue")
@pytest.mark.parametrize("said", ["", "421 4.3.2 shutting down", "421 bye"])
def test_a_hang_up_amid_recipients_is_no_limit_of_recipients(said: str) -> None:
    with Server(rcpt=lambda times, named: said if times == 4 else None) as server:
        config_for(server)
        send(10)
        assert sum(server.arrived.values()) == 10
        assert not ServerQuirks.objects.exists()


@pytest.mark.usefixtures("task_queue")
@pytest.mark.parametrize(
    "said",
    [
        "452 Too many recipients received this hour",
        "452 4.5.3 Too many recipients per day",
        "550 5.5.3 Too many recipients for this sender",
    ],
)
def test_a_limit_of_recipients_by_time_or_account_is_none_of_a_transaction(said: str) -> None:
    with Server(rcpt=lambda times, named: said if times > 2 else None) as server:
        config_for(server)
        send(10)
        assert sum(server.arrived.values()) == 2
        assert not ServerQuirks.objects.exists()


@pytest.mark.usefixtures("task_queue")
def test_refused_recipients_count_towards_the_limit() -> None:
    def said(times: int, named: int) -> str | None:
        if times > 20:
            return "452 4.5.3 too many recipients"
        return "550 5.1.1 no such user" if times < 20 else None

    with Server(rcpt=said) as server:
        config_for(server, pipelining="off")
        send(30)
        assert ServerQuirks.objects.get().recipients == 20


@pytest.mark.usefixtures("task_queue")
def test_too_many_said_of_one_recipient_is_no_limit_of_recipients() -> None:
    with Server(dot=lambda times, named: "554 Too many recipients") as server:
        config_for(server)
        send(9)
        assert not ServerQuirks.objects.filter(recipients__isnull=False).exists()


@pytest.mark.usefixtures("task_queue")
def test_a_limit_of_mails_by_time_is_none_of_a_session() -> None:
    with Server(mail=lambda times, named: "450 4.7.1 too many messages per second" if times == 3 else None) as server:
        config_for(server)
        send(*[1] * 8)
        assert sum(server.arrived.values()) == 8
        assert not ServerQuirks.objects.exists()


# -- in the admin ---------------------------------------------------------------------------------------------------

LIST = "/admin/email_integration/serverquirks/"


def test_it_is_seen_and_deleted_in_the_admin(admin_client: Any) -> None:
    SharedMemory().learn(RELAY, pipelining=Pipelining.NONE, mails=10)
    page = admin_client.get(LIST).content.decode()
    assert "Primary" in page
    assert "smtp.example.com" in page
    chosen = {"action": "delete_selected", "_selected_action": [breaker.key(RELAY)], "post": "yes"}
    assert admin_client.post(LIST, chosen).status_code == 302
    assert another_process().recall(RELAY) == Quirks()


def test_the_admin_cannot_change_a_quirk(admin_client: Any) -> None:
    SharedMemory().learn(RELAY, mails=10)
    assert admin_client.get(f"{LIST}add/").status_code == 403
    address = f"{LIST}{breaker.key(RELAY)}/change/"
    assert admin_client.get(address).status_code == 200
    assert admin_client.post(address, {"mails": "99"}).status_code == 403
    assert ServerQuirks.objects.get().mails == 10


def test_the_page_of_a_configuration_says_it(admin_client: Any) -> None:
    with PeculiarServer() as server:
        config = config_for(server)
        relay = routing.active_relay()
        assert isinstance(relay, Relay)
        address = f"/admin/email_integration/smtpconfig/{config.pk}/change/"
        assert "mails per session" not in admin_client.get(address).content.decode()
        SharedMemory().learn(relay, pipelining=Pipelining.GROUPS, mails=10, recipients=100)
        page = admin_client.get(address).content.decode()
    for words in ("mails per session: 10", "recipients per transaction: 100", "within one mail only"):
        assert words in page


@pytest.mark.parametrize(("given", "wanted"), [("automatic", True), ("off", False)])
def test_the_fields_of_a_configuration_are_the_relays(given: str, wanted: bool) -> None:
    with PeculiarServer() as server:
        config_for(server, pipelining=given, max_recipients=50)
        relay = routing.active_relay()
        assert isinstance(relay, Relay)
        assert (relay.pipelining, relay.max_recipients) == (wanted, 50)
        assert SMTPConfig.objects.get().history.first().max_recipients == 50
