"""The values of the dialogue: replies, errors, relays."""

from __future__ import annotations

import inspect
import pickle
import re
from collections.abc import Iterator
from dataclasses import replace
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from email_integration import exceptions
from email_integration.exceptions import EmailIntegrationError
from email_integration.smtp import Envelope, Phase, Relay, Reply, SMTPFailure, errors
from email_integration.smtp.auth import mechanisms
from email_integration.smtp.content import _PIECE, stuffed
from email_integration.smtp.timeouts import patience

SECRETS = ("kim@example.com", "s3cret")


@pytest.mark.parametrize(
    ("text", "enhanced", "short"),
    [
        (b"5.1.1 <kim@example.com> unknown", "5.1.1", "550 5.1.1"),
        (b"unknown", "", "550"),
        (b"5.7.30", "5.7.30", "550 5.7.30"),
        (b"5.1.1 first\n5.1.2 second", "5.1.1", "550 5.1.1"),
        (b"#5.1.1 unknown", "5.1.1", "550 5.1.1"),
        (b"5.7.708: not from this address", "5.7.708", "550 5.7.708"),
        (b"5.1.1; unknown", "5.1.1", "550 5.1.1"),
        (b"#10.0.0.1 is listed", "", "550"),
        (b"5.1.1:7 no status", "", "550"),
        (b"10.0.0.1 is listed", "", "550"),
        (b"5.1.1.7 no status", "", "550"),
        ("5.7.1 gesperrt für Sie".encode("latin-1"), "5.7.1", "550 5.7.1"),
    ],
)
def test_a_reply_shows_its_numbers_and_hides_its_text(text: bytes, enhanced: str, short: str) -> None:
    reply = Reply.parse(550, text)
    assert (reply.enhanced, reply.short) == (enhanced, short)
    assert "kim" not in repr(reply)


@pytest.mark.parametrize(
    ("code", "positive", "permanent"),
    [(250, True, False), (354, False, False), (450, False, False), (550, False, True)],
)
def test_only_2yz_says_yes(code: int, positive: bool, permanent: bool) -> None:
    reply = Reply.parse(code, b"")
    assert (reply.positive, reply.permanent) == (positive, permanent)


def _failures() -> list[Exception]:
    reply = Reply(code=550, enhanced="5.1.1", text="<kim@example.com> unknown")
    made: list[Exception] = []
    for kind in vars(errors).values():
        if inspect.isclass(kind) and issubclass(kind, SMTPFailure):
            made += [kind(Phase.RCPT), kind(Phase.RCPT, "detail"), kind(Phase.RCPT, "", reply)]
    for kind in vars(exceptions).values():
        if inspect.isclass(kind) and issubclass(kind, EmailIntegrationError):
            values = {"code": 550, "reason": "refused", "status": "expired"}
            own = inspect.isfunction(kind.__init__)
            made.append(kind(**{n: values[n] for n in inspect.signature(kind).parameters}) if own else kind("a reason"))
    return made


@pytest.mark.parametrize("error", _failures(), ids=lambda error: type(error).__name__)
def test_every_exception_survives_pickling(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert str(again) == str(error)


@pytest.mark.parametrize("error", _failures(), ids=lambda error: type(error).__name__)
def test_every_exception_says_something_without_an_address(error: Exception) -> None:
    assert str(error)
    assert "kim@" not in str(error) + repr(error)


def test_every_exception_has_a_default_message() -> None:
    assert str(errors.TLSFailed(Phase.STARTTLS)) == "starttls: The TLS connection could not be set up."


def test_relay_and_envelope_show_no_secret() -> None:
    relay = Relay(name="n", host="h", username="u", password="s3cret")
    envelope = Envelope(sender="kim@example.com", recipients=("kim@example.com",))
    for secret in SECRETS:
        assert secret not in f"{relay} {relay!r} {envelope} {envelope!r}"


@pytest.mark.parametrize(
    ("offered", "encrypted", "tried"),
    [
        (" LOGIN PLAIN CRAM-MD5", True, ["PLAIN", "LOGIN", "CRAM-MD5"]),
        (" LOGIN PLAIN CRAM-MD5", False, ["CRAM-MD5", "PLAIN", "LOGIN"]),
        ("login", True, ["LOGIN"]),
        ("LOGIN XOAUTH2 LOGIN", False, ["LOGIN"]),
        ("GSSAPI NTLM", True, []),
        ("", True, []),
    ],
)
def test_in_the_clear_the_mechanism_that_hides_the_password_is_preferred(
    offered: str, encrypted: bool, tried: list[str]
) -> None:
    assert mechanisms(offered, encrypted=encrypted) == tried


@pytest.mark.parametrize(
    ("phase", "timeout", "waits"),
    [
        (Phase.CONNECT, 10, 10),
        (Phase.CONNECT, 1000, 300),
        (Phase.GREETING, 1000, 300),
        (Phase.EHLO, 1000, 300),
        (Phase.STARTTLS, 1000, 300),
        (Phase.AUTH, 1000, 300),
        (Phase.MAIL, 299, 299),
        (Phase.MAIL, 1000, 300),
        (Phase.RCPT, 1000, 300),
        (Phase.DATA, 119, 119),
        (Phase.DATA, 1000, 120),
        (Phase.CONTENT, 10, 60),
        (Phase.CONTENT, 90, 90),
        (Phase.CONTENT, 1000, 180),
        (Phase.FINAL_DOT, 120, 120),
        (Phase.FINAL_DOT, 1000, 600),
    ],
)
def test_patience_is_the_relay_s_within_what_the_standard_calls_enough(
    phase: Phase, timeout: float, waits: float
) -> None:
    """RFC 5321 §4.5.3.2; a block of content gets at least a minute."""
    assert patience(phase, timeout) == waits


@pytest.mark.parametrize("text", [b"a\0b", b"a\x1b[31mb", b"a\rb", "a\x9bb".encode()])
def test_a_reply_keeps_no_control_characters(text: bytes) -> None:
    """PostgreSQL accepts no NUL, and a terminal must not execute a server's control characters."""
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", Reply.parse(550, text).text)
    assert Reply.parse(550, b"a\nb\tc").text == "a\nb\tc"


@pytest.mark.parametrize(
    ("sender", "recipients", "needed"),
    [
        ("a@example.com", ("kim@example.com",), False),
        ("", ("kim@xn--mller-kva.example",), False),
        ("j\xfcrgen@example.com", ("kim@example.com",), True),
        ("a@example.com", ("kim@example.com", "\u674e@example.com"), True),
        ("a@example.com", ("kim@m\xfcller.example",), True),
    ],
)
def test_an_address_beyond_ascii_needs_smtputf8(sender: str, recipients: tuple[str, ...], needed: bool) -> None:
    assert Envelope(sender=sender, recipients=recipients).needs_smtputf8 is needed


def test_relays_differ_by_version_authorities_and_name() -> None:
    relay = Relay(name="n", host="h")
    assert relay == Relay(name="n", host="h")
    others = {"version": "2", "ca_certificates": "PEM", "ehlo_name": "mail.example.com"}
    assert len({relay, *(replace(relay, **{name: value}) for name, value in others.items())}) == 4


@pytest.mark.parametrize(
    ("username", "password", "tokens", "logs_in"),
    [
        ("user", "secret", None, True),
        ("user", "", None, False),
        ("", "secret", None, False),
        ("user", "", mock.Mock(), True),
        ("", "", mock.Mock(), False),
    ],
)
def test_a_login_takes_a_user_name_and_a_secret(
    username: str, password: str, tokens: mock.Mock | None, logs_in: bool
) -> None:
    """As in Django's own backend."""
    assert Relay(name="n", host="h", username=username, password=password, tokens=tokens).logs_in is logs_in


#: Content made of the sequences that dot-stuffing must handle.
nasty = st.lists(st.sampled_from([b".", b"\r\n", b"\n", b"\r", b"a", b"..", b"\xe4", b"\0"]), max_size=30).map(b"".join)


def unstuff(sent: bytes) -> bytes:
    """Return the content as a server decodes it (RFC 5321 §4.5.2)."""
    lines = sent.split(b"\r\n")
    return b"\r\n".join(line[1:] if line.startswith(b".") else line for line in lines)


@given(nasty)
def test_stuffing_is_undone_by_the_server_and_holds_no_final_dot(content: bytes) -> None:
    sent = b"".join(stuffed(content))
    assert sent.endswith(b"\r\n")
    assert not re.search(rb"(^|\r\n|\n|\r)\.(\r\n|\n|\r)", sent)
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", sent)
    normal = re.sub(rb"\r\n?|\n", b"\r\n", content)
    assert unstuff(sent) == (normal if normal.endswith(b"\r\n") else normal + b"\r\n")


@given(st.lists(nasty.map(lambda line: line.replace(b"\r", b"").replace(b"\n", b"")), min_size=1).map(b"\r\n".join))
def test_content_in_order_is_not_changed(content: bytes) -> None:
    assert unstuff(b"".join(stuffed(content + b"\r\n"))) == content + b"\r\n"


@given(st.lists(nasty), st.sampled_from([0, _PIECE - 2, _PIECE - 1, _PIECE, _PIECE + 1, 2 * _PIECE - 1]))
def test_content_is_the_same_on_the_line_however_it_is_cut(blocks: list[bytes], filler: int) -> None:
    """Blocks are gathered into pieces; the filler lets a piece end within such a sequence."""
    cut = [b"x" * filler, *blocks]
    assert b"".join(stuffed(iter(cut))) == b"".join(stuffed(b"".join(cut))) == as_one_piece(b"".join(cut))


def as_one_piece(content: bytes) -> bytes:
    """Return the expected octets on the line, computed with regular expressions."""
    lines = re.sub(rb"\r\n?|\n", b"\r\n", content)
    return re.sub(rb"(?m)^\.", b"..", lines if lines.endswith(b"\r\n") else lines + b"\r\n")


def test_content_is_never_held_as_a_whole() -> None:
    taken = 0

    def blocks() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(1000):
            taken += 10_000
            yield b"." * 10_000

    sent = 0
    for piece in stuffed(blocks()):
        sent += len(piece)
        assert taken - sent < 3 * _PIECE
        assert len(piece) < 3 * _PIECE
    assert sent == 10_000_000 + 3  # one more dot, and the line end


def test_small_blocks_do_not_cost_a_write_each() -> None:
    assert len(list(stuffed([b"a line\r\n"] * 1000))) == 1
