"""Replies as bytes: slow ones, endless ones, and any at all, at every point of the dialogue."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.local.processes import PATIENCE
from email_integration.smtp import ConnectionLost, Envelope, Opening, Phase, Reply, Session, SMTPFailure
from email_integration.smtp.dialogue import MALFORMED, SILENT
from tests.relays import patient_but, relay_to, soon
from tests.scripted import Conversation, ScriptedServer

Point = Literal["CONNECT", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "GROUP", "DOT"]

#: Where a reply is due, and the phase of the first command it is due for.
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
    """Answer as usual up to the point, and do something else there."""

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
    """A whole session with one mail."""
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


def trickle(start: str, more: str) -> Callable[[Conversation], None]:
    def then(talk: Conversation) -> None:
        talk.connection.sendall(start.encode())
        pace = threading.Event()
        while True:
            talk.connection.sendall(more.encode())
            pace.wait(0.02)

    return then


@pytest.mark.parametrize(("point", "phase"), POINTS)
@pytest.mark.parametrize(("start", "more"), [("250 ", "x"), ("", "250-more\r\n")])
def test_a_reply_that_trickles_has_no_more_time_than_any_other(
    monkeypatch: pytest.MonkeyPatch, point: Point, phase: Phase, start: str, more: str
) -> None:
    """One time for all of a reply: each octet, and each line, would come in time."""
    patient_but(monkeypatch, point)
    with soon():
        error = failure(point, trickle(start, more), timeout=0.4)
    assert (type(error), error.phase, error.detail) == (ConnectionLost, phase, SILENT)


@pytest.mark.parametrize(("point", "phase"), POINTS)
@pytest.mark.parametrize("endless", ["x" * 100_000, "250 " + "x" * 100_000, "250-x\r\n" * 100_000])
def test_a_reply_without_end_is_none(point: Point, phase: Phase, endless: str) -> None:
    with soon():
        error = failure(point, lambda talk: talk.connection.sendall(endless.encode()), timeout=PATIENCE)
    assert (type(error), error.phase, error.detail) == (ConnectionLost, phase, MALFORMED)


@pytest.mark.parametrize(("point", "phase"), POINTS)
@pytest.mark.parametrize(
    "raw",
    [
        b"250-a\r\n251 b\r\n",
        b"250-a\r\nb\r\n",
        b"2500 a\r\n",
        b"25\r\n",
        b"\r\n",
        b"250 a",
        b"25",
        b"250-a\r\n",
        b"600 a\r\n",
    ],
)
def test_what_is_no_reply_is_told_so(point: Point, phase: Phase, raw: bytes) -> None:
    """Half a line and the end of the connection too: '250' may have been the beginning of '250-'."""
    error = failure(point, lambda talk: talk.connection.sendall(raw))
    detail = "the connection was lost" if raw == b"250-a\r\n" else MALFORMED
    assert (type(error), error.phase, error.detail, error.reply) == (ConnectionLost, phase, detail, None)


@pytest.mark.parametrize("raw", [b"250\r\n", b"250 \n", b"250-a\r\n250\r\n", b"250-\r\n250-\xff\x00\r\n250 ok\r\n"])
def test_a_reply_may_be_bare(raw: bytes) -> None:
    """No text, no CR, octets that are no text at all: RFC 5321 §4.2 asks us to be lenient."""
    with ScriptedServer(up_to("DOT", lambda talk: talk.connection.sendall(raw))) as server:
        assert send(server, timeout=5).code == 250


#: Made of what means something, so that it comes near to being a reply.
WORDS = [b"220", b"235", b"250", b"334", b"354", b"421", b"550", b"-1", b"5.1.1", b"x" * 9000]
OFFERS = [b"AUTH", b"AUTH=PLAIN", b"SIZE", b"PIPELINING", b"STARTTLS", b"SMTPUTF8"]
MARKS = [b"-", b" ", b"\r\n", b"\r", b"\n", b"\xff", b"\0"]
nearly = st.lists(st.sampled_from([*WORDS, *OFFERS, *MARKS]), max_size=12).map(b"".join)


@pytest.mark.parametrize("point", [point for point, _ in POINTS])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=nearly | st.binary(max_size=200))
def test_any_bytes_end_in_a_value_or_a_failure(point: Point, raw: bytes) -> None:
    """Never in another exception, never in a hang, never with what a database cannot keep."""

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
