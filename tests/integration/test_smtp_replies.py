"""Replies as bytes: slow, endless and arbitrary ones, at every point of the dialogue."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.local.processes import PATIENCE
from email_integration.smtp import ConnectionLost, Envelope, Opening, OutOfStep, Phase, Reply, Session, SMTPFailure
from email_integration.smtp.dialogue import MALFORMED, SILENT
from email_integration.smtp.replies import LONGEST_TEXT
from tests.relays import patient_but, relay_to, soon
from tests.scripted import Conversation, ScriptedServer

Point = Literal["CONNECT", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "GROUP", "DOT"]

#: Each point of a reply, with the phase of the first command that it answers.
POINTS: list[tuple[Point, Phase]] = [
    ("CONNECT", Phase.GREETING),
    ("EHLO", Phase.EHLO),
    ("AUTH", Phase.AUTH),
    ("MAIL", Phase.MAIL),
    ("RCPT", Phase.RCPT),
    ("DATA", Phase.DATA),
    ("GROUP", Phase.MAIL),
    ("DOT", Phase.FINAL_DOT),
]


def up_to(point: Point, then: Callable[[Conversation], None]) -> Callable[[Conversation], None]:
    """Return a script that replies as usual until the point, and calls ``then`` there."""

    def script(talk: Conversation) -> None:
        offers = ["250-localhost", *(["250-PIPELINING"] if point == "GROUP" else []), "250 AUTH PLAIN"]
        usual: list[tuple[str, list[str]]] = [
            ("CONNECT", ["220 localhost"]),
            ("EHLO", offers),
            ("AUTH", ["235 welcome"]),
            *([("GROUP", list[str]())] if point == "GROUP" else []),
            ("MAIL", ["250 ok"]),
            ("RCPT", ["250 ok"]),
            ("DATA", ["354 go on"]),
            ("DOT", ["250 taken"]),
        ]
        for name, reply in usual:
            if name == "GROUP":
                talk.hear_until("DATA")
            elif name == "DOT":
                talk.hear_content()
            elif name != "CONNECT":
                talk.hear()
            if name == point:
                then(talk)
                return
            talk.say(*reply)

    return script


def send(server: ScriptedServer, *, timeout: float) -> Reply:
    """Send one mail in a whole session, and return the reply to the final dot."""
    session = Session.open(relay_to(server, username="user", password="password", timeout=timeout))
    try:
        envelope = Envelope(sender="a@example.com", recipients=("kim@example.com",))
        session.begin(Opening(envelope=envelope, size=3, eight_bit=False))
        session.write(b"S: s\r\n\r\n")
        return session.finish(timeout=timeout)
    finally:
        session.quit(timeout=timeout)


def failure(point: Point, then: Callable[[Conversation], None], *, timeout: float = 5) -> SMTPFailure:
    with ScriptedServer(up_to(point, then)) as server, pytest.raises(SMTPFailure) as caught:
        send(server, timeout=timeout)
    return caught.value


def kind(point: Point) -> type[SMTPFailure]:
    """Return the exception for a failure at this point. In a group, the group itself may be the cause."""
    return OutOfStep if point == "GROUP" else ConnectionLost


def trickle(start: str, more: str) -> Callable[[Conversation], None]:
    def then(talk: Conversation) -> None:
        talk.connection.sendall(start.encode())
        pace = threading.Event()
        while True:
            talk.connection.sendall(more.encode())
            pace.wait(0.02)

    return then


#: Points where an incomplete reply counts as none. For the final dot, the code alone counts.
WHOLE = POINTS[:-1]


@pytest.mark.parametrize(("point", "phase"), WHOLE)
@pytest.mark.parametrize(("start", "more"), [("250 ", "x"), ("", "250-more\r\n")])
def test_a_reply_that_trickles_has_no_more_time_than_any_other(
    monkeypatch: pytest.MonkeyPatch, point: Point, phase: Phase, start: str, more: str
) -> None:
    """One time limit applies to the whole reply. Each octet, and each line, alone would be in time."""
    patient_but(monkeypatch, point)
    with soon():
        error = failure(point, trickle(start, more), timeout=0.4)
    assert (type(error), error.phase, error.detail) == (kind(point), phase, SILENT)


@pytest.mark.parametrize(("point", "phase"), WHOLE)
@pytest.mark.parametrize("endless", ["x" * 100_000, "250 " + "x" * 100_000, "250-x\r\n" * 100_000])
def test_a_reply_without_end_is_none(point: Point, phase: Phase, endless: str) -> None:
    with soon():
        error = failure(point, lambda talk: talk.connection.sendall(endless.encode()), timeout=PATIENCE)
    assert (type(error), error.phase, error.detail) == (kind(point), phase, MALFORMED)


NO_REPLY = [b"250-a\r\n251 b\r\n", b"25\r\n", b"\r\n", b"25", b"600 a\r\n"]
HALF = [b"250-a\r\nb\r\n", b"250 a", b"250-a\r\n"]


@pytest.mark.parametrize(("point", "phase"), POINTS)
@pytest.mark.parametrize("raw", NO_REPLY)
def test_what_is_no_reply_is_called_so(point: Point, phase: Phase, raw: bytes) -> None:
    error = failure(point, lambda talk: talk.connection.sendall(raw))
    assert (type(error), error.phase, error.detail, error.reply) == (kind(point), phase, MALFORMED, None)


@pytest.mark.parametrize(("point", "phase"), WHOLE)
@pytest.mark.parametrize("raw", HALF)
def test_half_a_reply_is_none_but_after_the_final_dot(point: Point, phase: Phase, raw: bytes) -> None:
    """'250' may be the beginning of '250-'."""
    error = failure(point, lambda talk: talk.connection.sendall(raw))
    lost = raw == b"250-a\r\n"
    expected = ConnectionLost if lost else kind(point), phase, "the connection was lost" if lost else MALFORMED, None
    assert (type(error), error.phase, error.detail, error.reply) == expected


#: Lines with a meaningful code only (RFC 5321 §4.2): no text, no CR, no space, or octets that are not text.
BARE = [b"%d\r\n", b"%d \n", b"%dok queued\r\n", b"%d\tok\r\n", b"%d0 a\r\n", b"%d.0.0 ok\r\n", b"%d:\r\n"]


@pytest.mark.parametrize("code", [250, 550])
@pytest.mark.parametrize("line", [*BARE, b"%d-a\r\n%d\r\n", b"%d-\r\n%d-\xff\x00\r\n%d ok\r\n"])
def test_a_reply_is_its_code(code: int, line: bytes) -> None:
    raw = line.replace(b"%d", str(code).encode())
    with ScriptedServer(up_to("DOT", lambda talk: talk.connection.sendall(raw))) as server:
        assert send(server, timeout=5).code == code


@pytest.mark.parametrize("point", ["CONNECT", "EHLO", "AUTH", "MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("line", BARE)
def test_a_reply_is_its_code_everywhere(point: Point, line: bytes) -> None:
    code = {"CONNECT": b"220", "AUTH": b"235", "DATA": b"354"}.get(point, b"250")
    said = line.replace(b"%d", code)

    def then(talk: Conversation) -> None:
        if point == "EHLO":  # must offer a login, in a continued line
            talk.connection.sendall(b"250-localhost\r\n250-AUTH PLAIN\r\n" + said)
        else:
            talk.connection.sendall(said)
        talk.go_on(AUTH="235 welcome", EHLO="250-localhost\n250 AUTH PLAIN")

    def dot(talk: Conversation) -> None:
        talk.connection.sendall(said)
        talk.hear_content()
        talk.say("250 taken")

    with ScriptedServer(up_to(point, dot if point == "DATA" else then)) as server:
        assert send(server, timeout=5).code == 250


@pytest.mark.parametrize(
    "raw", [*HALF, b"250", b"250-", b"250 " + b"x" * 100_000, b"250-x\r\n" * 100_000, b"250-a\r\n\xff\r\n"]
)
def test_after_the_final_dot_the_code_is_the_reply_whatever_is_lost_of_it(raw: bytes) -> None:
    """Otherwise the mail would be sent again each time it is in doubt. The session is not used again."""

    def then(talk: Conversation) -> None:
        talk.connection.sendall(raw)

    with ScriptedServer(up_to("DOT", then)) as server:
        session = Session.open(relay_to(server, username="user", password="password"))
        session.begin(
            Opening(envelope=Envelope(sender="a@example.com", recipients=("kim@example.com",)), size=3, eight_bit=False)
        )
        session.write(b"S: s\r\n\r\n")
        assert session.finish(timeout=PATIENCE).code == 250
        assert session.is_closed


def test_a_code_that_is_not_finished_in_time_is_the_reply_to_the_final_dot(monkeypatch: pytest.MonkeyPatch) -> None:
    patient_but(monkeypatch, "DOT")
    with ScriptedServer(up_to("DOT", trickle("250 ", "x"))) as server, soon():
        assert send(server, timeout=0.4).code == 250


def test_a_reply_is_cut_where_it_is_read() -> None:
    """Hundreds of refusals of any length are kept in memory until their mail is finished."""

    def then(talk: Conversation) -> None:
        talk.say(*["550-" + "x" * 8000] * 100, "550 no")
        talk.go_on()

    with ScriptedServer(up_to("RCPT", then)) as server:
        session = Session.open(relay_to(server, username="user", password="password"))
        envelope = Envelope(sender="a@example.com", recipients=("kim@example.com",))
        started = session.begin(Opening(envelope=envelope, size=3, eight_bit=False))
        session.quit()
    (refused,) = started.refused.values()
    assert (refused.code, len(refused.text)) == (550, LONGEST_TEXT)


#: Composed of meaningful parts, so that the result is similar to a reply.
WORDS = [b"220", b"235", b"250", b"334", b"354", b"421", b"550", b"-1", b"5.1.1", b"x" * 9000]
OFFERS = [b"AUTH", b"AUTH=PLAIN", b"SIZE", b"PIPELINING", b"STARTTLS", b"SMTPUTF8"]
MARKS = [b"-", b" ", b"\r\n", b"\r", b"\n", b"\xff", b"\0"]
nearly = st.lists(st.sampled_from([*WORDS, *OFFERS, *MARKS]), max_size=12).map(b"".join)


@pytest.mark.parametrize("point", [point for point, _ in POINTS])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=nearly | st.binary(max_size=200))
def test_any_bytes_end_in_a_value_or_a_failure(point: Point, raw: bytes) -> None:
    """No other exception, no hang, and no value that a database cannot store."""

    def then(talk: Conversation) -> None:
        talk.connection.sendall(raw)

    with ScriptedServer(up_to(point, then)) as server, soon():
        reply = reply_or_failure(server)
    if reply is not None:
        assert 200 <= reply.code < 600
        assert "\0" not in reply.text


def reply_or_failure(server: ScriptedServer) -> Reply | None:
    try:
        return send(server, timeout=PATIENCE)
    except SMTPFailure as error:
        return error.reply
