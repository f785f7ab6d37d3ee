"""MAIL, RCPT and DATA in one group (RFC 2920), with all possible replies to a group."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from config.local.certificates import Certificates
from config.local.processes import wait_until
from email_integration.smtp import ConnectionLost, Envelope, Opening, Phase, Refused, Session, SMTPFailure, Started
from email_integration.smtpd import SMTPServer
from tests.relays import relay_to
from tests.scripted import Conversation, ScriptedServer

Serve = Callable[..., SMTPServer]

KIM, LEE = "kim@example.com", "lee@example.com"
CONTENT = b"Subject: hello\r\n\r\nBody\r\n"
NOT_SMTP = "the server's reply is not valid SMTP"


def script(*replies: str, end: str = "") -> Callable[[Conversation], None]:
    """Return a script that sends ``replies`` to the first group in one write, and replies as usual afterwards.

    With an ``end`` of 'close' it closes the connection instead. It sends any other ``end`` unchanged before that.
    """

    def talk(conversation: Conversation) -> None:
        conversation.say("220 localhost")
        conversation.hear()
        conversation.say("250-localhost", "250 PIPELINING")
        conversation.hear_until("DATA")
        raw = "".join(f"{line}\r\n" for reply in replies for line in reply.split("\n"))
        conversation.connection.sendall((raw + end.removesuffix("close")).encode())
        if not end:
            conversation.go_on()

    return talk


@contextlib.contextmanager
def opened(server: SMTPServer | ScriptedServer, **changes: object) -> Iterator[Session]:
    session = Session.open(relay_to(server, **changes))
    try:
        yield session
    finally:
        session.quit()


def begin(session: Session, *to: str) -> Started:
    return session.begin(
        Opening(envelope=Envelope(sender="a@example.com", recipients=to or (KIM, LEE)), size=10, eight_bit=False)
    )


def deliver(session: Session) -> int:
    session.write(CONTENT)
    return session.finish(timeout=5).code


def send(session: Session, *to: str) -> int:
    begin(session, *to)
    return deliver(session)


def after_data(server: ScriptedServer) -> list[bytes]:
    """Return the lines that the client sent after the first group, without QUIT and the end."""
    rest = server.heard[server.heard.index(b"DATA") + 1 :]
    return [line for line in rest if line not in (b"", b"QUIT")]


@dataclass(frozen=True, kw_only=True)
class Ends:
    """The result of ``begin``: accepted and refused recipients, or the exception with its phase and code."""

    accepted: tuple[str, ...] = ()
    refused: dict[str, int] = field(default_factory=dict)
    raised: type[SMTPFailure] | None = None
    phase: Phase | None = None
    code: int | None = None
    detail: str = ""
    #: Whether the session can send another mail, and the commands that made this possible.
    idle: bool = False
    then: tuple[bytes, ...] = ()


def refusal(phase: Phase, code: int, *, idle: bool = False, then: tuple[bytes, ...] = ()) -> Ends:
    return Ends(raised=Refused, phase=phase, code=code, idle=idle, then=then)


def lost(phase: Phase, detail: str = "the connection was lost") -> Ends:
    return Ends(raised=ConnectionLost, phase=phase, detail=detail)


BOTH_REFUSED = {KIM: 550, LEE: 450}
RESET = (b"RSET",)

GROUPS: list[tuple[tuple[str, ...], str, Ends]] = [
    # Everything is accepted, or a part of it.
    (("250 ok", "250 ok", "250 ok", "354 go on"), "", Ends(accepted=(KIM, LEE))),
    (("250-ok\n250 sender", "250-a\n250-b\n250 c", "251 forwarded", "354-go\n354 on"), "", Ends(accepted=(KIM, LEE))),
    (("250 ok", "550 5.1.1 no", "250 ok", "354 go on"), "", Ends(accepted=(LEE,), refused={KIM: 550})),
    # No recipient is accepted.
    (("250 ok", "550 no", "450 later", "554 no recipient"), "", Ends(refused=BOTH_REFUSED, idle=True, then=RESET)),
    (("250 ok", "550 no", "450 later", "354 go on"), "", Ends(refused=BOTH_REFUSED)),
    (("250 ok", "550 no", "450 later", "421 bye"), "close", Ends(refused=BOTH_REFUSED)),
    (("250 ok", "550 no", "450 later"), "close", Ends(refused=BOTH_REFUSED)),
    # MAIL is refused: a reset is unnecessary, unless the server continued with the transaction.
    (("550 no", "503 what?", "503 what?", "503 what?"), "", refusal(Phase.MAIL, 550, idle=True)),
    (("451 later", "250 ok", "250 ok", "554 what?"), "", refusal(Phase.MAIL, 451)),
    (("451 later", "250 ok", "250 ok", "354 go on"), "", refusal(Phase.MAIL, 451)),
    (("550 no", "503 what?", "503 what?", "354 go on"), "", refusal(Phase.MAIL, 550)),
    (("550 no",), "close", refusal(Phase.MAIL, 550)),
    (("550 no", "421 bye"), "close", refusal(Phase.MAIL, 550)),
    # DATA is refused.
    (("250 ok", "250 ok", "250 ok", "451 later"), "", refusal(Phase.DATA, 451, idle=True, then=RESET)),
    (("250 ok", "550 no", "250 ok", "554 no"), "", refusal(Phase.DATA, 554, idle=True, then=RESET)),
    # 421 at any time.
    (("421 bye",), "close", refusal(Phase.MAIL, 421)),
    (("250 ok", "421-bye\n421 bye"), "close", refusal(Phase.RCPT, 421)),
    (("250 ok", "250 ok", "421 bye"), "close", refusal(Phase.RCPT, 421)),
    (("250 ok", "550 no", "421 bye"), "close", refusal(Phase.RCPT, 421)),
    (("250 ok", "250 ok", "550 no", "421 bye"), "close", refusal(Phase.DATA, 421)),
    # The connection is lost at any time.
    ((), "close", lost(Phase.MAIL)),
    (("250 ok",), "close", lost(Phase.RCPT)),
    (("250 ok", "550 no"), "close", lost(Phase.RCPT)),
    (("250 ok", "250 ok", "250 ok"), "close", lost(Phase.DATA)),
    # Garbage, half a line, different codes in one reply.
    (("SSH-2.0-OpenSSH_9.2",), "", lost(Phase.MAIL, NOT_SMTP)),
    (("250 ok", "-1"), "", lost(Phase.RCPT, NOT_SMTP)),
    (("250 ok", "250 ok"), "250 o", lost(Phase.RCPT, NOT_SMTP)),
    (("250 ok", "250 ok", "250 ok"), "354", lost(Phase.DATA, NOT_SMTP)),
    (("250 ok", "250-a\n550 b"), "", lost(Phase.RCPT, NOT_SMTP)),
    # One reply too many, or one too few. No reply can then be matched to its command.
    (("250 ok", "250 ok", "354 go on"), "", lost(Phase.RCPT, NOT_SMTP)),
    (("250 ok", "250 ok", "250 ok", "250 ok", "354 go on"), "", lost(Phase.DATA, NOT_SMTP)),
    (("550 stray", "250 ok", "250 ok", "250 ok", "354 go on"), "", lost(Phase.DATA, NOT_SMTP)),
    (("250 ok", "550 no", "550 no", "250 what?"), "", lost(Phase.DATA, NOT_SMTP)),
]


@pytest.mark.parametrize(("replies", "end", "ends"), GROUPS)
def test_a_group_is_answered(replies: tuple[str, ...], end: str, ends: Ends) -> None:
    with ScriptedServer(script(*replies, end=end)) as server, opened(server) as session:
        if ends.raised is None:
            started = begin(session)
            assert started.accepted == ends.accepted
            assert {to: reply.code for to, reply in started.refused.items()} == ends.refused
        else:
            with pytest.raises(ends.raised) as caught:
                begin(session)
            error = caught.value
            assert isinstance(error, SMTPFailure)
            assert (error.phase, error.code, error.detail) == (ends.phase, ends.code, ends.detail)
        assert session.is_idle == ends.idle
        assert session.is_closed == (not ends.idle and not ends.accepted)
        assert after_data(server) == list(ends.then)


@pytest.mark.parametrize(
    "replies",
    [
        ("250 ok", "550 no", "450 later", "554 no recipient"),
        ("550 no", "503 what?", "503 what?", "503 what?"),
        ("250 ok", "250 ok", "250 ok", "451 later"),
    ],
)
def test_after_a_refused_group_the_next_mail_goes_over_the_same_session(replies: tuple[str, ...]) -> None:
    with ScriptedServer(script(*replies)) as server, opened(server) as session:
        with contextlib.suppress(Refused):
            begin(session)
        assert send(session) == 250
    assert server.connections == 1


@pytest.mark.parametrize("security", ["plain", "starttls", "tls"])
def test_a_group_is_understood_by_a_real_server(smtp_server: Serve, security: str) -> None:
    server = smtp_server(security=security)
    with opened(server) as session:
        assert [send(session) for _ in range(3)] == [250, 250, 250]
    assert [message.rcpt_tos for message in server.messages] == [(KIM, LEE)] * 3


def test_commands_leave_before_their_replies_come() -> None:
    """A server that replies only after DATA would otherwise wait forever."""
    with ScriptedServer(script("250 ok", "250 ok", "354 go on")) as server, opened(server) as session:
        assert begin(session, KIM).accepted == (KIM,)
    assert server.heard[1:4] == [b"MAIL FROM:<a@example.com>", b"RCPT TO:<kim@example.com>", b"DATA"]


def test_without_the_offer_commands_go_one_by_one() -> None:
    def one_by_one(talk: Conversation) -> None:
        talk.say("220 localhost")
        talk.hear()
        talk.say("250 localhost")
        while line := talk.connection.recv(1000):
            together.append(line.count(b"\r\n"))
            talk.say("354 go on" if line.startswith(b"DATA") else "250 ok")

    together: list[int] = []
    with ScriptedServer(one_by_one) as server, opened(server) as session:
        assert begin(session).accepted == (KIM, LEE)
        session.close()
    assert together == [1, 1, 1, 1]


def test_a_thousand_recipients_go_in_groups_that_fit_the_buffers() -> None:
    """Otherwise both sides could block in a write, each waiting for the other to read."""
    everybody = tuple(f"{'x' * 60}{n}@{'y' * 60}.example.com" for n in range(1000))
    largest = 0

    def talk(conversation: Conversation) -> None:
        nonlocal largest
        conversation.say("220 localhost")
        conversation.hear()
        conversation.say("250-localhost", "250 PIPELINING")
        answered = 0
        while answered < len(everybody) + 2:
            came = conversation.connection.recv(1_000_000)
            while not came.endswith(b"\r\n"):
                came += conversation.connection.recv(1_000_000)
            largest = max(largest, len(came))
            for line in came.splitlines():
                answered += 1
                conversation.say("354 go on" if line == b"DATA" else "250 " + "z" * 500)
        conversation.hear_content()
        conversation.say("250 taken")

    with ScriptedServer(talk) as server, opened(server) as session:
        assert begin(session, *everybody).accepted == everybody
        session.write(CONTENT)
        assert session.finish(timeout=5).code == 250
    assert largest < 32 * 1024


def test_a_refused_sender_ends_it_after_the_first_group() -> None:
    everybody = tuple(f"{n}@example.com" for n in range(250))

    def talk(conversation: Conversation) -> None:
        conversation.say("220 localhost")
        conversation.hear()
        conversation.say("250-localhost", "250 PIPELINING")
        conversation.go_on(MAIL="550 no", RCPT="503 what?")

    with ScriptedServer(talk) as server, opened(server) as session:
        with pytest.raises(Refused):
            begin(session, *everybody)
        assert session.is_idle
    assert sum(line.startswith(b"RCPT") for line in server.heard) == 99
    assert b"DATA" not in server.heard


def test_data_is_not_sent_alone_without_recipients() -> None:
    """All recipients are refused by then, and DATA would be the only command of its group."""
    everybody = tuple(f"{n}@example.com" for n in range(99))

    def talk(conversation: Conversation) -> None:
        conversation.say("220 localhost")
        conversation.hear()
        conversation.say("250-localhost", "250 PIPELINING")
        conversation.go_on(RCPT="550 no")

    with ScriptedServer(talk) as server, opened(server) as session:
        assert len(begin(session, *everybody).refused) == 99
        assert session.is_idle
    assert b"DATA" not in server.heard


def test_each_reply_of_a_group_has_as_long_as_any_other() -> None:
    """A server that looks up each recipient needs that time for each of them."""

    def talk(conversation: Conversation) -> None:
        conversation.say("220 localhost")
        conversation.hear()
        conversation.say("250-localhost", "250 PIPELINING")
        conversation.hear_until("DATA")
        pace = threading.Event()
        for reply in (*["250 ok"] * 11, "354 go on"):
            pace.wait(0.2)
            conversation.say(reply)
        conversation.hear()

    everybody = [f"u{number}@example.com" for number in range(10)]
    with ScriptedServer(talk) as server, opened(server, timeout=2) as session:
        started = time.monotonic()
        assert begin(session, *everybody).accepted == tuple(everybody)
        assert time.monotonic() - started > 2
        session.close()


# -- servers that reply too early -----------------------------------------------------------------------------------

EARLY: list[tuple[str, type[SMTPFailure], int | None]] = [
    ("250 taken", ConnectionLost, None),
    ("354 go on", ConnectionLost, None),
    ("garbage", ConnectionLost, None),
    ("250 " + "x" * 8000, ConnectionLost, None),
    ("552 5.3.4 too big", Refused, 552),
    ("421 4.3.2 bye", Refused, 421),
]


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(("early", "kind", "code"), EARLY)
def test_what_comes_behind_the_354_is_not_the_reply_to_the_final_dot(
    certificates: Certificates, early: str, kind: type[SMTPFailure], code: int | None, tls: bool
) -> None:
    """Otherwise a stray 250 would lose the mail. It may be in our buffer or in that of TLS, and no longer in the
    socket's.
    """
    answer = script("250 ok", "250 ok", "250 ok", "354 go on", early)
    context = certificates.server_context() if tls else None
    with (
        ScriptedServer(answer, tls_context=context) as server,
        opened(server, host="localhost", use_ssl=tls) as session,
    ):
        assert begin(session).accepted == (KIM, LEE)
        with pytest.raises(kind) as caught:
            deliver(session)
        error = caught.value
        assert isinstance(error, SMTPFailure)
        assert (error.phase, error.code) == (Phase.CONTENT, code)
        assert session.is_closed
        wait_until(lambda: server.heard[-1] == b"" or b"." in server.heard, what="the end")
        assert b"." not in server.heard


def test_what_only_tls_has_is_seen_too(certificates: Certificates) -> None:
    """The expected replies fill one read exactly, to the octet. The rest of the TLS record is already decrypted and
    waits.
    """
    rest = "250 ok\r\n250 ok\r\n354 go on\r\n"
    long = "250 " + "x" * (8192 - len(rest) - len("250 \r\n"))
    answer = script("250 ok", long, "250 ok", "354 go on", "250 taken")
    with (
        ScriptedServer(answer, tls_context=certificates.server_context()) as server,
        opened(server, host="localhost", use_ssl=True) as session,
    ):
        assert begin(session).accepted == (KIM, LEE)
        assert session.was_hung_up
        with pytest.raises(ConnectionLost) as caught:
            deliver(session)
        assert caught.value.phase is Phase.CONTENT


def test_what_comes_behind_the_last_reply_ends_the_session() -> None:
    """It is not used as a reply to the next mail."""

    def twice(conversation: Conversation) -> None:
        conversation.say("220 localhost")
        conversation.hear()
        conversation.say("250-localhost", "250 PIPELINING")
        conversation.hear_until("DATA")
        conversation.say("250 ok", "250 ok", "250 ok", "354 go on")
        conversation.hear_content()
        conversation.say("250 taken", "550 stray")
        conversation.hear()

    with ScriptedServer(twice) as server, opened(server) as session:
        assert send(session) == 250
        assert session.was_hung_up
        with pytest.raises(ConnectionLost) as caught:
            begin(session)
        assert (caught.value.phase, caught.value.detail) == (Phase.MAIL, NOT_SMTP)
        assert session.is_closed
        assert session.transactions == 1


def test_a_farewell_between_two_mails_is_one() -> None:
    def talk(conversation: Conversation) -> None:
        conversation.say("220 localhost")
        conversation.hear()
        conversation.say("250 localhost", "421 4.4.2 idle for too long")

    with ScriptedServer(talk) as server, opened(server) as session:
        with pytest.raises(Refused) as caught:
            begin(session)
        assert (caught.value.phase, caught.value.code) == (Phase.MAIL, 421)
        assert session.is_closed
