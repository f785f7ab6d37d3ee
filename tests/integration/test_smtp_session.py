"""Transactions in a session: the server's records afterwards, and every way to fail."""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from config.local.processes import PATIENCE, wait_until
from email_integration.smtp import (
    ConnectionLost,
    Envelope,
    NotOffered,
    Opening,
    OutOfStep,
    Phase,
    Refused,
    Reply,
    Session,
    SMTPFailure,
)
from email_integration.smtp.dialogue import SILENT, Connection
from email_integration.smtpd import Fault, SMTPServer, Verb
from tests.deliveries import in_threads
from tests.relays import patient_but, relay_to, soon
from tests.scripted import Conversation, ScriptedServer

Serve = Callable[..., SMTPServer]

CONTENT = b"Subject: hello\r\n\r\nBody\r\n"
ENVELOPE = Envelope(sender="a@example.com", recipients=("kim@example.com",))


@pytest.fixture(params=["pipelining", "one by one"])
def serve(smtp_server: Serve, request: pytest.FixtureRequest) -> Serve:
    """Start a server that accepts groups of commands, or one that needs them one by one."""
    return functools.partial(smtp_server, pipelining=request.param == "pipelining")


@contextlib.contextmanager
def opened(server: SMTPServer | ScriptedServer, **changes: object) -> Iterator[Session]:
    session = Session.open(relay_to(server, **changes))
    try:
        yield session
    finally:
        session.quit()


def send(
    session: Session,
    *to: str,
    content: bytes = CONTENT,
    timeout: float = 5,
    before_dot: Callable[[], bool] | None = None,
) -> Reply:
    envelope = Envelope(sender="a@example.com", recipients=to or ("kim@example.com",))
    session.begin(Opening(envelope=envelope, size=len(content), eight_bit=not content.isascii()))
    session.write(content)
    if before_dot is not None:
        wait_until(before_dot, what="the condition before the final dot")
    return session.finish(timeout=timeout)


def failure(session: Session, **how: Any) -> SMTPFailure:
    with pytest.raises(SMTPFailure) as caught:
        send(session, **how)
    return caught.value


@pytest.mark.parametrize(
    "content",
    [
        b"Subject: s\r\n\r\n.\r\n..\r\n.a\r\n\r\n.\r\n",
        b"Subject: s\r\n\r\n" + bytes(range(128, 256)) + b"\r\n",
        b"Subject: s\r\n\r\n" + b"." * 900 + b"\r\n",
        b"\r\n",
        b"Subject: s\r\n\r\n" + (b"x" * 76 + b"\r\n.\r\n") * 20_000,
    ],
)
def test_the_server_has_the_content_byte_for_byte(smtp_server: Serve, content: bytes) -> None:
    server = smtp_server()
    with opened(server) as session:
        assert send(session, content=content).code == 250
    assert server.messages[0].content == content


def test_one_session_carries_many_mails_and_logs_in_once(smtp_server: Serve) -> None:
    server = smtp_server()
    with opened(server) as session:
        for number in range(20):
            send(session, f"kim{number}@example.com")
            assert session.is_idle
        assert session.transactions == 20
    assert [message.rcpt_tos for message in server.messages] == [(f"kim{n}@example.com",) for n in range(20)]
    assert (len(server.sessions), server.auths) == (1, 1)
    # Postfix counts RSET and NOOP as junk commands.
    assert not {"RSET", "NOOP"} & set(server.sessions[0].verbs)


@pytest.mark.parametrize(
    ("offered", "content", "mail"),
    [
        ("250-SIZE 1000\n250 8BITMIME", b"S: \xe4\r\n", "MAIL FROM:<a@example.com> SIZE=6 BODY=8BITMIME"),
        ("250-SIZE\n250 8BITMIME", b"S: a\r\n", "MAIL FROM:<a@example.com> SIZE=6"),
        ("250 8BITMIME", b"S: \xe4\r\n", "MAIL FROM:<a@example.com> BODY=8BITMIME"),
        ("250 HELP", b"S: \xe4\r\n", "MAIL FROM:<a@example.com>"),
    ],
)
def test_size_and_8bitmime_are_said_where_they_are_offered(offered: str, content: bytes, mail: str) -> None:
    hello = f"250-localhost\n{offered}"
    with ScriptedServer(lambda talk: talk.answer(EHLO=hello)) as server, opened(server) as session:
        send(session, content=content)
    assert mail.encode() in server.heard


def test_refused_recipients_are_reported_and_the_others_get_the_mail(serve: Serve) -> None:
    server = serve(faults=[Fault(verb="RCPT", reply="550 5.1.1 No such user", match="lee@")])
    with opened(server) as session:
        envelope = Envelope(sender="a@example.com", recipients=("kim@example.com", "lee@example.com"))
        started = session.begin(Opening(envelope=envelope, size=len(CONTENT), eight_bit=False))
        assert started.accepted == ("kim@example.com",)
        assert {to: reply.short for to, reply in started.refused.items()} == {"lee@example.com": "550 5.1.1"}
        session.write(CONTENT)
        session.finish(timeout=5)
    assert server.messages[0].rcpt_tos == ("kim@example.com",)


def test_a_reply_to_a_recipient_that_says_neither_is_no_yes(serve: Serve) -> None:
    """3yz requests more data (RFC 5321 §4.2.1), which is possible only after DATA."""
    server = serve(faults=[Fault(verb="RCPT", reply="350 Go on", match="lee@")])
    with opened(server) as session:
        envelope = Envelope(sender="a@example.com", recipients=("kim@example.com", "lee@example.com"))
        started = session.begin(Opening(envelope=envelope, size=len(CONTENT), eight_bit=False))
        assert started.accepted == ("kim@example.com",)
        assert {to: reply.code for to, reply in started.refused.items()} == {"lee@example.com": 350}


def test_a_session_whose_recipients_were_all_refused_is_still_good(serve: Serve) -> None:
    server = serve(faults=[Fault(verb="RCPT", reply="450 4.2.0 Later", times=2)])
    with opened(server) as session:
        envelope = Envelope(sender="a@example.com", recipients=("kim@example.com", "lee@example.com"))
        started = session.begin(Opening(envelope=envelope, size=len(CONTENT), eight_bit=False))
        assert (started.accepted, len(started.refused)) == ((), 2)
        assert session.is_idle
        send(session)
    assert len(server.messages) == 1
    assert "RSET" in server.sessions[0].verbs


TRANSACTION: list[tuple[Verb, Phase]] = [
    ("MAIL", Phase.MAIL),
    ("RCPT", Phase.RCPT),
    ("DATA", Phase.DATA),
    ("CONTENT", Phase.CONTENT),
    ("DOT", Phase.FINAL_DOT),
]


@pytest.mark.parametrize(("verb", "phase"), [TRANSACTION[0], TRANSACTION[2]])
@pytest.mark.parametrize("reply", ["451 4.3.0 Later", "550 5.7.1 Never"])
def test_after_a_refusal_the_session_is_still_good(serve: Serve, verb: Verb, phase: Phase, reply: str) -> None:
    server = serve(faults=[Fault(verb=verb, reply=reply, times=1)])
    with opened(server) as session:
        error = failure(session)
        assert (type(error), error.phase, error.code) == (Refused, phase, int(reply[:3]))
        assert session.is_idle
        assert send(session).code == 250
    assert len(server.messages) == 1


@pytest.mark.parametrize("reply", ["451 4.3.0 Later", "550 5.7.1 Never"])
def test_a_refusal_of_the_content_is_a_reply(smtp_server: Serve, reply: str) -> None:
    server = smtp_server(faults=[Fault(verb="DOT", reply=reply, times=1)])
    with opened(server) as session:
        assert send(session).code == int(reply[:3])
        assert session.is_idle
        assert send(session).code == 250
    assert len(server.messages) == 1


def hung_up(session: Session, verb: Verb) -> dict[str, Any]:
    """Return the content to send, and the condition to wait for before the final dot.

    A client that sends the dot at once cannot notice the hang-up before it. A small content goes in the same write as
    the dot.
    """
    if verb != "CONTENT":
        return {}
    return {"before_dot": lambda: session.was_hung_up, "content": CONTENT + b"A line of a long body\r\n" * 1000}


@pytest.mark.parametrize(("verb", "phase"), TRANSACTION[:-1])
def test_421_ends_the_session(serve: Serve, verb: Verb, phase: Phase) -> None:
    server = serve(faults=[Fault(verb=verb, reply="421 4.3.2 Shutting down")])
    with opened(server) as session:
        error = failure(session, **hung_up(session, verb))
        assert (type(error), error.phase, error.code) == (Refused, phase, 421)
        assert session.is_closed
    assert server.messages == []


def test_421_after_the_final_dot_is_a_refusal_that_ends_the_session(smtp_server: Serve) -> None:
    server = smtp_server(faults=[Fault(verb="DOT", reply="421 4.3.2 Shutting down")])
    with opened(server) as session:
        assert send(session).code == 421
        assert session.is_closed
    assert server.messages == []


@pytest.mark.parametrize(("verb", "phase"), TRANSACTION)
def test_a_lost_connection_names_its_phase(serve: Serve, verb: Verb, phase: Phase) -> None:
    server = serve(faults=[Fault(verb=verb, drop=True)])
    with opened(server) as session:
        error = failure(session, **hung_up(session, verb))
        assert (type(error), error.phase) == (ConnectionLost, phase)
        assert session.is_closed
    assert server.messages == []


@pytest.mark.parametrize(("verb", "phase"), [one for one in TRANSACTION if one[0] != "CONTENT"])
def test_silence_names_its_phase_and_ends_at_the_timeout(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, verb: Verb, phase: Phase
) -> None:
    patient_but(monkeypatch, verb)
    server = serve(faults=[Fault(verb=verb, hang=True)])
    with opened(server, timeout=0.3) as session:
        with soon():
            error = failure(session, timeout=0.3)
        # In a group, the group itself may be the cause.
        kind = OutOfStep if server.pipelining and verb in ("MAIL", "RCPT", "DATA") else ConnectionLost
        assert (type(error), error.phase, error.detail) == (kind, phase, SILENT)
        assert session.is_closed


def test_the_reply_to_the_final_dot_has_a_timeout_of_its_own(smtp_server: Serve) -> None:
    server = smtp_server(faults=[Fault(verb="DOT", delay=1.2)])
    with opened(server, timeout=1) as session:
        assert send(session, timeout=PATIENCE).code == 250


@pytest.mark.parametrize(
    "fault", [Fault(verb="DOT", drop_after_accept=True), Fault(verb="DOT", hang_after_accept=True)]
)
def test_lost_after_the_final_dot_is_distinguished_from_lost_before_it(smtp_server: Serve, fault: Fault) -> None:
    server = smtp_server(faults=[fault])
    with opened(server) as session:
        error = failure(session, timeout=0.3)
    assert (type(error), error.phase) == (ConnectionLost, Phase.FINAL_DOT)
    wait_until(lambda: len(server.messages) == 1, what="the mail at the server")


def test_a_session_closed_before_the_final_dot_delivers_no_mail(smtp_server: Serve) -> None:
    server = smtp_server()
    with opened(server) as session:
        session.begin(
            Opening(envelope=Envelope(sender="a@example.com", recipients=("kim@example.com",)), size=1, eight_bit=False)
        )
        session.write(CONTENT)
        session.close()
        assert session.is_closed
    wait_until(lambda: not server.sessions[0].is_open, what="the end of the session")
    assert server.messages == []


def test_a_small_content_goes_out_with_the_final_dot_in_one_write(
    smtp_server: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, written = smtp_server(), list[bytes]()
    say = Connection.send
    with opened(server) as session:

        def send_and_note(connection: Connection, octets: bytes) -> None:
            written.append(octets)
            say(connection, octets)

        monkeypatch.setattr(Connection, "send", send_and_note)
        send(session)
        assert written[-1] == CONTENT + b".\r\n"
        send(session, content=CONTENT + b"A line of a long body\r\n" * 1000)
        assert written[-1] == b".\r\n"
    assert len(server.messages) == 2


def test_a_small_content_that_cannot_be_written_is_in_no_doubt(
    smtp_server: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The final dot is at the end of that write, and was not sent."""

    def fail(connection: Connection, octets: bytes) -> None:
        raise BrokenPipeError

    server = smtp_server()
    with opened(server) as session:
        session.begin(Opening(envelope=ENVELOPE, size=len(CONTENT), eight_bit=False))
        session.write(CONTENT)
        monkeypatch.setattr(Connection, "send", fail)
        [lost] = in_threads(functools.partial(_lost_at_the_end, session))
        assert lost.phase is Phase.CONTENT
        assert session.is_closed
    assert server.messages == []


def _lost_at_the_end(session: Session) -> ConnectionLost:
    with pytest.raises(ConnectionLost) as caught:
        session.finish(timeout=5)
    return caught.value


def test_what_a_signal_raises_leaves_a_doubt(smtp_server: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal handler runs on the main thread, after all octets were sent."""
    send = Connection.send

    def time_out(connection: Connection, octets: bytes) -> None:
        send(connection, octets)
        raise TimeoutError

    server = smtp_server()
    with opened(server) as session:
        session.begin(Opening(envelope=ENVELOPE, size=len(CONTENT), eight_bit=False))
        session.write(CONTENT)
        monkeypatch.setattr(Connection, "send", time_out)
        assert _lost_at_the_end(session).phase is Phase.FINAL_DOT
    wait_until(lambda: server.messages, what="the mail")


def test_a_server_that_says_no_before_the_end_is_heard(smtp_server: Serve) -> None:
    """The server then closes the connection, and its reason must not be lost."""
    server = smtp_server(security="plain", faults=[Fault(verb="CONTENT", reply="552 5.3.4 Too big")])
    with opened(server) as session:
        error = failure(session, content=b"Subject: s\r\n\r\n" + b"x" * 70 + b"\r\n" * 3_000_000)
    assert (type(error), error.phase, error.code) == (Refused, Phase.CONTENT, 552)


def test_a_slow_line_is_not_a_dead_one() -> None:
    """The timeout applies to each piece that makes progress, not to the whole content."""
    content = b"Subject: s\r\n\r\n" + (b"x" * 998 + b"\r\n") * 4000

    def script(talk: Conversation) -> None:
        talk.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        talk.say("220 hello")
        for _ in range(3):
            talk.hear()
            talk.say("250 ok")
        talk.hear()
        talk.say("354 go on")
        pace = threading.Event()
        received = 0
        while received < len(content) + 3:
            received += len(talk.file.read1(200_000))
            pace.wait(0.02)
        talk.say("250 taken")
        talk.hear()

    with ScriptedServer(script) as server, opened(server, timeout=0.5) as session:
        started = time.monotonic()
        assert send(session, content=content).code == 250
        assert time.monotonic() - started > 0.5


@pytest.mark.parametrize(
    "answers", [{"MAIL": "-1"}, {"RCPT": "SSH-2.0"}, {"DATA": "250 ok"}, {"MAIL": "354 go on"}, {"DOT": "354 go on"}]
)
def test_a_server_out_of_step_loses_the_connection(answers: dict[str, str]) -> None:
    """With replies one step behind, RSET would become a line of the content."""
    with ScriptedServer(lambda talk: talk.answer(**answers)) as server, opened(server) as session:
        error = failure(session)
        assert (type(error), error.detail) == (ConnectionLost, "the server's reply is not valid SMTP")
        assert session.is_closed
    assert b"RSET" not in server.heard


def test_a_session_that_cannot_be_reset_is_closed() -> None:
    with ScriptedServer(lambda talk: talk.answer(DATA="550 no", RSET="502 what?")) as server, opened(server) as session:
        assert type(failure(session)) is Refused
        assert session.is_closed


def test_what_the_server_says_is_in_no_message(smtp_server: Serve) -> None:
    server = smtp_server(faults=[Fault(verb="MAIL", reply="550 5.1.8 a@example.com is banned")])
    with opened(server) as session:
        error = failure(session)
    assert str(error) == "mail: 550 5.1.8"
    assert "a@example.com" not in repr(error)


@pytest.mark.parametrize("stop", [SMTPServer.stop_politely, SMTPServer.drop_connections])
@pytest.mark.parametrize("security", ["plain", "starttls", "tls"])
def test_a_session_that_was_hung_up_on_is_noticed(
    smtp_server: Serve, stop: Callable[[SMTPServer], None], security: str
) -> None:
    server = smtp_server(security=security)
    with opened(server) as session:
        send(session)
        assert not session.was_hung_up
        stop(server)
        wait_until(lambda: session.was_hung_up, what="the hang-up")


# -- addresses beyond ASCII -----------------------------------------------------------------------------------------

BEYOND_ASCII = Envelope(sender="jürgen@example.com", recipients=("李@example.com", "kim@example.com"))


@pytest.mark.parametrize("pipelining", [True, False])
def test_addresses_beyond_ascii_go_in_utf_8_where_it_is_offered(smtp_server: Serve, pipelining: bool) -> None:
    server = smtp_server(pipelining=pipelining)
    with opened(server) as session:
        session.begin(Opening(envelope=BEYOND_ASCII, size=len(CONTENT), eight_bit=False))
        session.write(CONTENT)
        assert session.finish(timeout=5).code == 250
        send(session)
    assert (server.messages[0].mail_from, server.messages[0].rcpt_tos) == (
        BEYOND_ASCII.sender,
        BEYOND_ASCII.recipients,
    )


def test_smtputf8_is_said_when_it_is_needed_and_only_then() -> None:
    hello = "250-localhost\n250-8BITMIME\n250 SMTPUTF8"
    with ScriptedServer(lambda talk: talk.answer(EHLO=hello)) as server, opened(server) as session:
        session.begin(Opening(envelope=BEYOND_ASCII, size=len(CONTENT), eight_bit=False))
        session.write(CONTENT)
        session.finish(timeout=5)
        send(session)
    assert [line.decode() for line in server.heard if line.startswith((b"MAIL", b"RCPT"))] == [
        "MAIL FROM:<jürgen@example.com> BODY=8BITMIME SMTPUTF8",
        "RCPT TO:<李@example.com>",
        "RCPT TO:<kim@example.com>",
        "MAIL FROM:<a@example.com>",
        "RCPT TO:<kim@example.com>",
    ]


def test_without_smtputf8_nothing_is_said_and_the_session_is_still_good(smtp_server: Serve) -> None:
    server = smtp_server(smtputf8=False)
    with opened(server) as session:
        with pytest.raises(NotOffered) as caught:
            session.begin(Opening(envelope=BEYOND_ASCII, size=len(CONTENT), eight_bit=False))
        assert caught.value.phase is Phase.MAIL
        assert (session.is_idle, session.transactions) == (True, 0)
        assert send(session).code == 250
    assert server.sessions[0].transactions == 1
    assert "RSET" not in server.sessions[0].verbs


@pytest.mark.parametrize("address", ["kim@example.com>\r\nRCPT TO:<eve@example.com", "kim\n@example.com"])
def test_no_command_can_be_smuggled_in_by_an_address(serve: Serve, address: str) -> None:
    server = serve()
    with opened(server) as session:
        with pytest.raises(ValueError, match="line end"):
            send(session, address)
        assert not session.is_idle
        session.close()
    assert "RCPT" not in server.sessions[0].verbs


# -- content in blocks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("security", ["plain", "tls"])
def test_content_comes_in_blocks_of_any_size(smtp_server: Serve, security: str) -> None:
    server = smtp_server(security=security)
    blocks = [
        b"Subject: s\r\n\r",
        b"",
        b"\n",
        b".",
        b"\r\n",
        (b"." * 900 + b"\r\n") * 200,
        b"\r",
        b"\n",
        b".\r\n",
        b"end",
    ]
    with opened(server) as session:
        session.begin(
            Opening(envelope=Envelope(sender="a@example.com", recipients=("kim@example.com",)), size=9, eight_bit=False)
        )
        session.write(block for block in blocks)
        assert session.finish(timeout=5).code == 250
    assert server.messages[0].content == b"".join(blocks) + b"\r\n"


def test_content_that_cannot_be_read_is_not_the_server_s_fault(smtp_server: Serve) -> None:
    """An exception of the storage is raised unchanged, and an incomplete mail is not sent."""

    def blocks() -> Iterator[bytes]:
        yield b"Subject: s\r\n\r\n"
        raise FileNotFoundError("gone")

    server = smtp_server()
    with opened(server) as session:
        session.begin(
            Opening(envelope=Envelope(sender="a@example.com", recipients=("kim@example.com",)), size=9, eight_bit=False)
        )
        with pytest.raises(FileNotFoundError):
            session.write(blocks())
        assert session.is_closed
    wait_until(lambda: not server.sessions[0].is_open, what="the end of the session")
    assert server.messages == []


@pytest.mark.extra
def test_a_server_that_stops_reading_is_given_up_after_a_minute() -> None:
    """This is independent of the relay's timeout, as a shorter limit would cut off slow lines."""
    over = threading.Event()

    def script(talk: Conversation) -> None:
        talk.say("220 hello")
        for _ in range(3):
            talk.hear()
            talk.say("250 ok")
        talk.hear()
        talk.say("354 go on")
        over.wait()

    with ScriptedServer(script) as server, opened(server, timeout=0.5) as session:
        started = time.monotonic()
        error = failure(session, content=b"x\r\n" * 10_000_000)
        waited = time.monotonic() - started
        over.set()
    assert (type(error), error.phase, error.detail) == (ConnectionLost, Phase.CONTENT, SILENT)
    # The client gave up, by its own clock. Its delay after that depends on the machine.
    assert waited > 59
