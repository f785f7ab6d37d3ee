"""Logging in: which mechanisms are tried, in which order, and which refusal is reported."""

from __future__ import annotations

import base64
import contextlib
import ssl
from collections.abc import Iterator

import pytest

from config.local.certificates import Certificates
from email_integration.smtp import Phase, Refused, Relay, Session, SMTPFailure, auth
from email_integration.smtp.connection_test import Kind, run_connection_test
from tests.relays import relay_to
from tests.scripted import Conversation, ScriptedServer

CHALLENGE = f"334 {base64.b64encode(b'<1@host>').decode()}"
USER = f"334 {base64.b64encode(b'User:').decode()}"
PASSWORD = f"334 {base64.b64encode(b'Password:').decode()}"
IN = "235 2.7.0 welcome"


class ScriptedLogin:
    """A server with set replies for each mechanism: one reply to AUTH, or several in turn.

    '' closes the connection. A reply of 4 characters or fewer gets a text.
    """

    def __init__(self, offered: str, **replies: str | list[str]) -> None:
        self.offered = offered
        self._replies = {name.replace("_", "-"): reply for name, reply in replies.items()}
        #: The mechanisms that the client has requested.
        self.asked: list[str] = []

    def __call__(self, talk: Conversation) -> None:
        talk.say("220 localhost")
        while line := talk.hear():
            verb, *words = line.decode().split()
            if verb.upper() == "EHLO":
                talk.say("250-localhost", f"250 AUTH {self.offered}")
            elif verb.upper() == "AUTH":
                if not self._login(talk, words[0]):
                    return
            else:
                talk.say("221 bye")
                return

    def _login(self, talk: Conversation, mechanism: str) -> bool:
        self.asked.append(mechanism)
        given = self._replies[mechanism]
        for reply in [given] if isinstance(given, str) else given:
            if not reply:
                return False
            talk.say(reply)
            if reply.startswith("334"):
                talk.hear()
        return True


@contextlib.contextmanager
def served(login: ScriptedLogin, certificates: Certificates | None = None) -> Iterator[Relay]:
    """Yield a relay to this server, over TLS if there are certificates."""
    context: ssl.SSLContext | None = certificates.server_context() if certificates is not None else None
    with ScriptedServer(login, tls_context=context) as server:
        yield relay_to(
            server, host="localhost", username="kim", password="s3cret", use_ssl=context is not None, timeout=10
        )


def refusal(relay: Relay) -> SMTPFailure:
    with pytest.raises(SMTPFailure) as caught:
        Session.open(relay)
    return caught.value


@pytest.mark.parametrize(
    "refused",
    [
        "501 5.5.4 Malformed",
        "501 5.5.2 Cannot decode",
        "502 5.5.1 Not implemented",
        "504 5.5.4 Unrecognized authentication type",
        "534 5.7.9 Mechanism is too weak",
    ],
)
def test_a_mechanism_that_is_not_possible_is_followed_by_the_next(certificates: Certificates, refused: str) -> None:
    login = ScriptedLogin("PLAIN LOGIN", PLAIN=refused, LOGIN=[USER, PASSWORD, IN])
    with served(login, certificates) as relay:
        Session.open(relay).quit()
    assert login.asked == ["PLAIN", "LOGIN"]


def test_the_last_of_three_lets_us_in(certificates: Certificates) -> None:
    login = ScriptedLogin(
        "PLAIN LOGIN CRAM-MD5",
        PLAIN="504 5.5.4 no",
        LOGIN=[USER, "501 5.5.2 no"],
        CRAM_MD5=[CHALLENGE, IN],
    )
    with served(login, certificates) as relay:
        Session.open(relay).quit()
    assert login.asked == ["PLAIN", "LOGIN", "CRAM-MD5"]


def test_a_server_that_keeps_only_digests_may_take_the_password_by_another_mechanism() -> None:
    """Its CRAM-MD5 can never succeed. On an unencrypted connection, it is tried first."""
    login = ScriptedLogin("PLAIN LOGIN CRAM-MD5", CRAM_MD5=[CHALLENGE, "535 5.7.8 authentication failed"], PLAIN=IN)
    with served(login) as relay:
        Session.open(relay).quit()
    assert login.asked == ["CRAM-MD5", "PLAIN"]


@pytest.mark.parametrize(
    "refused",
    ["535 5.7.8 wrong", "530 5.7.0 STARTTLS first", "538 5.7.11 encrypt", "550 5.7.1 no", "500 5.5.6 too long"],
)
def test_a_refused_login_is_tried_by_no_other_mechanism(certificates: Certificates, refused: str) -> None:
    """The password would be wrong with any mechanism, and more attempts can lock accounts."""
    login = ScriptedLogin("PLAIN LOGIN CRAM-MD5", PLAIN=refused, LOGIN=[USER, PASSWORD, IN])
    with served(login, certificates) as relay:
        error = refusal(relay)
    assert (type(error), error.phase, error.code) == (Refused, Phase.AUTH, int(refused[:3]))
    assert login.asked == ["PLAIN"]


@pytest.mark.parametrize(
    "refused", ["454 4.7.0 Temporary authentication failure", "421 4.3.2 Shutting down", "432 4.7.12"]
)
def test_a_refusal_for_now_ends_the_tries(certificates: Certificates, refused: str) -> None:
    login = ScriptedLogin("PLAIN LOGIN", PLAIN=refused, LOGIN=[USER, PASSWORD, IN])
    with served(login, certificates) as relay:
        assert refusal(relay).code == int(refused[:3])
    assert login.asked == ["PLAIN"]


@pytest.mark.parametrize(
    ("first", "second", "reported"),
    [
        ("504 5.5.4 no", "535 5.7.8 wrong", "5.7.8 wrong"),
        ("504 5.5.4 no", "501 5.5.2 what", "5.5.4 no"),
        ("504 5.5.4 no", "454 4.7.0 later", "4.7.0 later"),
        ("504 5.5.4 no", "421 4.3.2 bye", "4.3.2 bye"),
        (
            "534 5.7.9 Application-specific password required",
            "504 5.5.4 no",
            "5.7.9 Application-specific password required",
        ),
        ("534 5.7.9 weak", "535 5.7.8 wrong", "5.7.8 wrong"),
        ("534 5.7.9 weak", "421 4.7.0 bye", "5.7.9 weak"),
        ("504 5.5.4 no", "", "5.5.4 no"),
        ("504 5.5.4 no", "* BYE", "5.5.4 no"),
    ],
)
def test_of_several_refusals_the_most_informative_is_reported(
    certificates: Certificates, first: str, second: str, reported: str
) -> None:
    """The earlier reply of a server that closes the connection, or replies nonsense, gives the reason."""
    login = ScriptedLogin("PLAIN LOGIN", PLAIN=first, LOGIN=second)
    with served(login, certificates) as relay:
        error = refusal(relay)
    assert (type(error), error.phase) == (Refused, Phase.AUTH)
    assert error.reply is not None
    assert error.reply.text == reported
    assert login.asked == ["PLAIN", "LOGIN"]


@pytest.mark.parametrize(
    ("plain", "reported"),
    [
        ("535 5.7.8 wrong", "5.7.8 by digest"),
        ("504 5.5.4 no", "5.7.8 by digest"),
        ("421 4.7.0 too many errors", "5.7.8 by digest"),
        ("", "5.7.8 by digest"),
        ("454 4.7.0 later", "4.7.0 later"),
    ],
)
def test_after_a_digest_that_was_refused_the_most_informative_is_reported(plain: str, reported: str) -> None:
    login = ScriptedLogin("CRAM-MD5 PLAIN LOGIN", CRAM_MD5=[CHALLENGE, "535 5.7.8 by digest"], PLAIN=plain, LOGIN=[""])
    with served(login) as relay:
        error = refusal(relay)
    assert error.reply is not None
    assert error.reply.text == reported


@pytest.mark.parametrize(
    "said",
    [
        "503 5.5.1 Error: already authenticated",
        "503 Already Authenticated",
        "503 5.5.0 You are already logged in",
        "503 5.7.0 No identity changes permitted. x - gsmtp",
    ],
)
def test_a_client_that_is_already_logged_in_continues(certificates: Certificates, said: str) -> None:
    """RFC 4954 §4: the server refuses AUTH with 503 after a successful one, or if the client's address
    is sufficient.
    """
    login = ScriptedLogin("PLAIN LOGIN", PLAIN=said)
    with served(login, certificates) as relay:
        Session.open(relay).quit()
    assert login.asked == ["PLAIN"]


@pytest.mark.parametrize(
    "said", ["503 5.5.1 Bad sequence of commands", "503 5.7.0 not authenticated", "503 AUTH not available"]
)
def test_another_503_is_a_refusal(certificates: Certificates, said: str) -> None:
    login = ScriptedLogin("PLAIN LOGIN", PLAIN=said, LOGIN=[USER, PASSWORD, IN])
    with served(login, certificates) as relay:
        assert refusal(relay).code == 503
    assert login.asked == ["PLAIN"]


def test_a_machine_without_md5_logs_in_by_another_mechanism(monkeypatch: pytest.MonkeyPatch) -> None:
    """For example where FIPS 140 is enforced."""

    def new(*_: object) -> None:
        raise ValueError("[digital envelope routines] unsupported")

    monkeypatch.setattr(auth.hmac, "new", new)
    login = ScriptedLogin("CRAM-MD5 PLAIN", CRAM_MD5=[CHALLENGE, IN], PLAIN=IN)
    with served(login) as relay:
        Session.open(relay).quit()
    assert login.asked == ["PLAIN"]


def test_the_test_of_a_connection_shows_the_mechanism_that_let_us_in(certificates: Certificates) -> None:
    login = ScriptedLogin("PLAIN LOGIN", PLAIN="504 5.5.4 no", LOGIN=[USER, PASSWORD, IN])
    with served(login, certificates) as relay:
        report = run_connection_test(relay)
    assert report.ok
    assert report.mechanism == "LOGIN"
    assert [stage.detail for stage in report.stages if stage.kind is Kind.AUTH] == ["LOGIN"]


def test_a_user_name_without_a_password_is_no_login() -> None:
    """As in Django's own backend. The mechanisms that the server offers do not matter."""
    login = ScriptedLogin("NTLM")
    with served(login) as relay:
        report = run_connection_test(
            Relay(name="n", host=relay.host, port=relay.port, username="kim", use_tls=False, timeout=10)
        )
    assert report.ok
    assert login.asked == []
    assert Kind.AUTH not in [stage.kind for stage in report.stages]


# -- by token -------------------------------------------------------------------------------------------------------


class Purse:
    """Tokens that are given out one by one. It remembers the refused ones."""

    def __init__(self, *tokens: str) -> None:
        self._tokens = list(tokens)
        self.refused: list[str] = []

    def current(self) -> str:
        return self._tokens[0]

    def another(self, refused: str = "") -> str | None:
        self.refused.append(refused)
        self._tokens.remove(refused)
        return self._tokens[0] if self._tokens else None


@contextlib.contextmanager
def served_by_token(login: ScriptedLogin, purse: Purse) -> Iterator[Relay]:
    with ScriptedServer(login) as server:
        yield relay_to(server, username="kim", tokens=purse, timeout=10)


@pytest.mark.parametrize("code", [501, 502, 504, 534])
def test_a_token_is_shown_by_the_next_mechanism(code: int) -> None:
    login, purse = ScriptedLogin("XOAUTH2 OAUTHBEARER", OAUTHBEARER=f"{code} 5.5.4 no", XOAUTH2=IN), Purse("one", "two")
    with served_by_token(login, purse) as relay:
        Session.open(relay).quit()
    assert login.asked == ["OAUTHBEARER", "XOAUTH2"]
    assert purse.refused == []


def test_a_refused_token_is_replaced_once_and_shown_by_no_other_mechanism() -> None:
    login, purse = (
        ScriptedLogin("XOAUTH2 OAUTHBEARER", OAUTHBEARER="535 5.7.8 no", XOAUTH2=IN),
        Purse("one", "two", "three"),
    )
    with served_by_token(login, purse) as relay:
        assert refusal(relay).code == 535
    assert login.asked == ["OAUTHBEARER", "OAUTHBEARER"]
    assert purse.refused == ["one"]


def test_another_token_is_shown_by_the_mechanism_that_is_possible() -> None:
    login = ScriptedLogin("XOAUTH2 OAUTHBEARER", OAUTHBEARER="504 5.5.4 no", XOAUTH2="535 5.7.8 no")
    purse = Purse("one", "two")
    with served_by_token(login, purse) as relay:
        error = refusal(relay)
    assert error.code == 535
    assert login.asked == ["OAUTHBEARER", "XOAUTH2", "XOAUTH2"]
    assert purse.refused == ["one"]


def test_a_token_that_is_in_already_is_in() -> None:
    login, purse = ScriptedLogin("XOAUTH2", XOAUTH2="503 5.5.1 already authenticated"), Purse("one")
    with served_by_token(login, purse) as relay:
        Session.open(relay).quit()
    assert login.asked == ["XOAUTH2"]
