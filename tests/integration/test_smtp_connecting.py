"""Connecting: hosts with several addresses, IPv6 addresses in brackets, and the name that TLS and EHLO use."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from config.local.certificates import make_certificates
from config.local.processes import free_port
from email_integration.diagnosis.advice import advise
from email_integration.smtp import (
    CannotConnect,
    NotOffered,
    Phase,
    Refused,
    Session,
    SMTPFailure,
    connecting,
    dialogue,
    naming,
    opening,
)
from email_integration.smtp.connection_test import run_connection_test
from email_integration.smtp.dialogue import Connection
from tests.relays import relay_to, soon
from tests.scripted import Conversation, ScriptedServer


def resolved(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
    """Resolve every name to these addresses, including the port of each."""
    found = [
        (socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))
        for host, port in addresses
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


@contextlib.contextmanager
def black_holes(number: int) -> Iterator[list[tuple[str, int]]]:
    """Yield addresses that neither accept nor refuse connections: a full accept queue drops packets, as a firewall
    does.
    """
    with contextlib.ExitStack() as stack:
        addresses = []
        for _ in range(number):
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            addresses.append(listener.getsockname())
            for _ in range(4):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(listener.getsockname())
        yield addresses


def failure(relay: Any) -> SMTPFailure:
    with pytest.raises(SMTPFailure) as caught:
        Session.open(relay)
    return caught.value


def test_an_address_behind_a_silent_one_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(lambda talk: talk.answer()) as server, black_holes(1) as holes:
        resolved(monkeypatch, *holes, ("127.0.0.1", server.port))
        relay = relay_to(server, host="smtp.example.com", timeout=6)
        with soon():
            Session.open(relay).quit()


def test_a_name_without_an_address_is_a_matter_of_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(lambda talk: talk.answer()) as server:
        resolved(monkeypatch)
        relay = relay_to(server, host="smtp.example.com", timeout=4)
        error = failure(relay)
    assert (type(error), error.detail) == (CannotConnect, "the host name has no IP address")
    assert advise(error, relay).key == "name"


def test_eight_addresses_are_given_up_at_the_timeout_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(lambda talk: talk.answer()) as server, black_holes(8) as holes:
        resolved(monkeypatch, *holes)
        with soon():
            error = failure(relay_to(server, host="smtp.example.com", timeout=0.8))
    assert (type(error), error.detail) == (CannotConnect, "the server did not answer within 0.8 s")


def test_a_connection_test_comes_to_the_last_address_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each address gets a share of the displayed timeout, not of a longer internal one."""
    handed: list[float] = []

    def connected(found: object, timeout: float) -> socket.socket:
        handed.append(timeout)
        raise ConnectionRefusedError

    monkeypatch.setattr(connecting, "_connected", connected)
    resolved(monkeypatch, *(("127.0.0.1", port) for port in range(1, 9)))
    with ScriptedServer(lambda talk: talk.answer()) as server:
        assert not run_connection_test(relay_to(server, host="smtp.example.com", timeout=80)).ok
    assert len(handed) == 8
    assert handed[0] <= 10


def test_an_address_that_refuses_says_more_than_one_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(lambda talk: talk.answer()) as server, black_holes(1) as holes:
        resolved(monkeypatch, *holes, ("127.0.0.1", free_port()))
        error = failure(relay_to(server, host="smtp.example.com", timeout=4))
    assert (type(error), error.detail) == (CannotConnect, "Connection refused")


@pytest.mark.parametrize("host", ["[::1]", "::1", "[IPv6:::1]"])
@pytest.mark.parametrize("encryption", ["none", "starttls", "tls"])
def test_an_address_in_brackets_is_connected_to_and_its_certificate_checked(
    tmp_path: Path, host: str, encryption: str
) -> None:
    own = make_certificates(tmp_path, names=("::1",))

    def script(talk: Conversation) -> None:
        if encryption != "starttls":
            talk.answer()
            return
        talk.say("220 localhost")
        talk.hear()
        talk.say("250-localhost", "250 STARTTLS")
        talk.hear()
        talk.say("220 go on")
        talk.secure(own.server_context())
        talk.go_on()

    context = own.server_context() if encryption == "tls" else None
    with ScriptedServer(script, tls_context=context, host="::1") as server:
        relay = relay_to(
            server,
            host=host,
            use_tls=encryption == "starttls",
            use_ssl=encryption == "tls",
            ca_certificates=own.authority.read_text(),
        )
        session = Session.open(relay)
        assert bool(session.tls_version) == (encryption != "none")
        session.quit()


def test_tls_from_the_start_has_what_connecting_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    handed: list[float | None] = []

    def connect(host: str, port: int, timeout: float) -> socket.socket:
        nonlocal now
        now += 7
        return ours

    def wrap_socket(sock: socket.socket, server_hostname: str) -> socket.socket:
        handed.append(sock.gettimeout())
        return sock

    monkeypatch.setattr(dialogue, "connect", connect)
    monkeypatch.setattr(dialogue, "time", SimpleNamespace(monotonic=lambda: now))
    context: Any = SimpleNamespace(wrap_socket=wrap_socket)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for timeout in (10, 7):
            ours = socket.create_connection(listener.getsockname())
            connection = Connection(timeout=timeout, local_hostname="x")
            with contextlib.suppress(TimeoutError):
                connection.dial("localhost", 25, context)
            connection.close()
    assert handed == [3]


# -- the name -------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _nameless(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(socket, "getfqdn", lambda: "web_1.my_net")
    naming.host_name.cache_clear()
    yield
    naming.host_name.cache_clear()


@pytest.mark.parametrize(("host", "literal"), [("127.0.0.1", b"[127.0.0.1]"), ("::1", b"[IPv6:::1]")])
def test_without_a_proper_name_the_connection_s_own_address_is_said(host: str, literal: bytes) -> None:
    with ScriptedServer(lambda talk: talk.answer(), host=host) as server:
        Session.open(relay_to(server, host=host)).quit()
    assert server.heard[0].lower() == b"ehlo " + literal.lower()


@pytest.mark.parametrize("wanted", ["mail.example.com", "[192.0.2.1]"])
def test_the_name_that_is_set_is_said(wanted: str) -> None:
    with ScriptedServer(lambda talk: talk.answer(EHLO="502 what?")) as server:
        Session.open(relay_to(server, ehlo_name=wanted)).quit()
    assert server.heard[:2] == [f"ehlo {wanted}".encode(), f"helo {wanted}".encode()]


@pytest.mark.parametrize(
    ("ehlo", "helo", "reported"),
    [
        ("550 5.7.1 need a full name", "503 bad sequence", 550),
        ("501 5.5.4 invalid name", "501 invalid name", 501),
        ("500 what?", "550 5.7.1 bad name", 550),
        ("502 what?", "502 what?", 502),
    ],
)
def test_of_two_refusals_the_one_that_says_more_is_reported(ehlo: str, helo: str, reported: int) -> None:
    with ScriptedServer(lambda talk: talk.answer(EHLO=ehlo, HELO=helo)) as server:
        error = failure(relay_to(server))
    assert (type(error), error.phase, error.code) == (Refused, Phase.EHLO, reported)


@pytest.mark.parametrize("changes", [{"use_tls": True}, {"username": "kim", "password": "s3cret"}])
def test_a_name_that_only_helo_takes_is_why_nothing_is_offered(changes: dict[str, Any]) -> None:
    with ScriptedServer(lambda talk: talk.answer(EHLO="501 5.5.4 invalid name")) as server:
        error = failure(relay_to(server, **changes))
        assert (type(error), error.phase, error.code) == (Refused, Phase.EHLO, 501)
    with ScriptedServer(lambda talk: talk.answer(EHLO="502 5.5.1 unknown")) as server:
        assert type(failure(relay_to(server, **changes))) is NotOffered


def test_a_handshake_that_is_cut_off_is_a_lost_connection() -> None:
    """The connection succeeded, so host and port are right, and no firewall blocks it."""
    with ScriptedServer(lambda talk: talk.connection.recv(1)) as server:
        error = failure(relay_to(server, use_ssl=True))
    assert error.phase is Phase.CONNECT
    assert type(error) is not CannotConnect
    assert isinstance(error.__cause__, ssl.SSLError | ConnectionError)


def test_the_greeting_has_a_time_of_its_own() -> None:
    """It does not depend on the time limit for connecting."""

    def late(conversation: Conversation) -> None:
        threading.Event().wait(0.5)
        conversation.answer()

    with ScriptedServer(late) as server:
        relay = relay_to(server)
        connection = opening.unconnected(relay)
        assert list(opening.steps(connection, relay, connect_within=0.2))[:2] == [Phase.CONNECT, Phase.GREETING]
        connection.close()
