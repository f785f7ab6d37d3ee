"""Opening a session: encryption, login, and every way to fail."""

from __future__ import annotations

import base64
import contextlib
import hmac
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from config.local.certificates import Certificates, make_certificates
from config.local.processes import PATIENCE, free_port
from email_integration.routing import breaker
from email_integration.smtp import (
    CannotConnect,
    ConnectionLost,
    NotOffered,
    NoToken,
    Phase,
    Refused,
    Relay,
    Session,
    SMTPFailure,
    TLSFailed,
)
from email_integration.smtp.auth import mechanisms
from email_integration.smtp.dialogue import MALFORMED, Connection
from email_integration.smtp.tls import client_context
from email_integration.smtpd import Fault, Security, SMTPServer, Verb
from tests.relays import patient_but, relay_to, soon
from tests.scripted import Conversation, ScriptedServer

Serve = Callable[..., SMTPServer]


@contextlib.contextmanager
def opened(server: SMTPServer | ScriptedServer, **changes: object) -> Iterator[Session]:
    session = Session.open(relay_to(server, **changes))
    try:
        yield session
    finally:
        session.quit()


def failure(server: SMTPServer | ScriptedServer, **changes: object) -> SMTPFailure:
    with pytest.raises(SMTPFailure) as caught, opened(server, **changes):
        pass
    return caught.value


@pytest.mark.parametrize("security", ["starttls", "tls", "plain"])
def test_a_session_is_as_secure_as_the_relay_says(smtp_server: Serve, security: Security) -> None:
    server = smtp_server(security=security)
    with opened(server) as session:
        assert session.is_idle
        assert bool(session.tls_version) == (security != "plain")
        assert repr(session) == f"<Session localhost:{server.port} idle transactions=0>"
    assert (server.sessions[0].tls, server.sessions[0].user) == (security != "plain", "user")
    assert server.sessions[0].verbs[-1] == "QUIT"


def test_a_relay_without_user_name_does_not_log_in(smtp_server: Serve) -> None:
    server = smtp_server(user=None)
    with opened(server):
        pass
    assert "AUTH" not in server.sessions[0].verbs


@pytest.mark.parametrize("mechanisms", ["PLAIN", "LOGIN", "CRAM-MD5", "PLAIN initial"])
@pytest.mark.parametrize(("user", "password"), [("kim", "s3cret"), ("jürgen", "paßwort€"), ("kim", "x" * 500)])
def test_every_mechanism_logs_in_and_none_minds_what_is_not_ascii(mechanisms: str, user: str, password: str) -> None:
    seen: list[tuple[str, str]] = []

    def ask(talk: Conversation, prompt: str) -> bytes:
        talk.say(f"334 {base64.b64encode(prompt.encode()).decode()}")
        return base64.b64decode(talk.hear())

    def script(talk: Conversation) -> None:
        talk.say("220 hello")
        talk.hear()
        talk.say("250-localhost", f"250 AUTH {mechanisms.split()[0]}")
        _, mechanism, *initial = talk.hear().decode().split()
        if mechanism == "PLAIN":
            if "initial" in mechanisms or not initial:
                talk.say("334 ")
                initial = [talk.hear().decode()]
            _, name, secret = base64.b64decode(initial[0]).decode().split("\0")
        elif mechanism == "LOGIN":
            name, secret = ask(talk, "User:").decode(), ask(talk, "Password:").decode()
        else:
            name, digest = ask(talk, "<1@host>").decode().split()
            secret = password if digest == hmac.new(password.encode(), b"<1@host>", "md5").hexdigest() else "?"
        seen.append((name, secret))
        talk.say("235 welcome")
        talk.hear()

    with ScriptedServer(script) as server, opened(server, username=user, password=password):
        pass
    assert seen == [(user, password)]


def test_a_wrong_password_is_refused_in_the_auth_phase_and_tried_once(smtp_server: Serve) -> None:
    server = smtp_server()
    error = failure(server, password="s3cret")
    assert (type(error), error.phase, error.code) == (Refused, Phase.AUTH, 535)
    assert "s3cret" not in f"{error!r} {error}"
    assert server.failed_auths == 1


def test_an_unknown_mechanism_is_not_offered() -> None:
    with ScriptedServer(lambda talk: talk.answer(EHLO="250-localhost\n250 AUTH NTLM")) as server:
        error = failure(server, username="kim", password="s3cret")
    assert (type(error), error.phase) == (NotOffered, Phase.AUTH)


# -- OAuth ----------------------------------------------------------------------------------------------------------


class Purse:
    """Tokens that are given out one by one."""

    def __init__(self, *tokens: str) -> None:
        self._tokens = list(tokens)
        self.asked = 0

    def current(self) -> str:
        return self._tokens[0]

    def another(self, refused: str = "") -> str | None:
        self.asked += 1
        assert self._tokens.pop(0) == refused
        return self._tokens[0] if self._tokens else None


@pytest.mark.parametrize("mechanism", ["OAUTHBEARER", "XOAUTH2"])
@pytest.mark.parametrize("token", ["good", "good" * 150], ids=["short", "longer than a line may be"])
def test_a_token_logs_in_by_what_the_server_offers(smtp_server: Serve, mechanism: str, token: str) -> None:
    server = smtp_server(check_token=lambda shown: shown == token, mechanisms=[mechanism], user="k,i=m@x.example")
    with opened(server, password="", tokens=Purse(token)):
        pass
    assert (server.auths, server.failed_auths, server.sessions[0].user) == (1, 0, "k,i=m@x.example")


def test_the_standard_s_mechanism_comes_first() -> None:
    offered = "LOGIN PLAIN XOAUTH2 OAUTHBEARER"
    assert mechanisms(offered, encrypted=True, by_token=True) == ["OAUTHBEARER", "XOAUTH2"]
    assert mechanisms("LOGIN XOAUTH2", encrypted=True, by_token=True) == ["XOAUTH2"]
    assert mechanisms("LOGIN PLAIN", encrypted=True, by_token=True) == []
    assert mechanisms("XOAUTH2 OAUTHBEARER", encrypted=True) == []


@pytest.mark.parametrize(("mechanism", "status"), [("OAUTHBEARER", "invalid_token"), ("XOAUTH2", "401")])
def test_a_refused_token_is_replaced_once_and_the_server_s_reason_is_reported(
    smtp_server: Serve, mechanism: str, status: str
) -> None:
    """The client answers the challenge that contains the error, and so gets the 535 after it. The
    error's text is kept.
    """
    server = smtp_server(check_token=lambda shown: False, mechanisms=[mechanism])
    purse = Purse("first-s3cret", "second-s3cret", "third-s3cret")
    error = failure(server, password="", tokens=purse)
    assert isinstance(error, Refused)
    assert error.reply is not None
    assert (error.phase, error.code, error.reply.enhanced) == (Phase.AUTH, 535, "5.7.8")
    assert error.reply.text.startswith(f"the server refused the OAuth token (status {status}, scope smtp)")
    assert (purse.asked, server.failed_auths) == (1, 2)
    assert "s3cret" not in f"{error!r} {error} {error.reply.text}"


def test_a_revoked_token_is_no_reason_to_fail(smtp_server: Serve) -> None:
    server = smtp_server(check_token=lambda shown: shown == "new")
    with opened(server, password="", tokens=Purse("old", "new")):
        pass
    assert (server.auths, server.failed_auths) == (1, 1)


@pytest.mark.parametrize("challenge", ["s3cret", "not base64", base64.b64encode(b"[1]").decode(), ""])
def test_a_challenge_that_says_nothing_is_answered_too_and_gives_no_token_back(challenge: str) -> None:
    def script(talk: Conversation) -> None:
        talk.say("220 hello")
        talk.hear()
        talk.say("250-localhost", "250 AUTH XOAUTH2")
        talk.hear()
        talk.say(f"334 {challenge}")
        assert talk.hear() == b""
        talk.say("535 5.7.3 s3cret is no token")

    with ScriptedServer(script) as server:
        error = failure(server, username="kim", tokens=Purse("s3cret"))
    assert isinstance(error, Refused)
    assert error.reply is not None
    assert error.reply.text == "the server refused the OAuth token\n5.7.3 *** is no token"


def test_without_a_token_no_server_is_called(smtp_server: Serve) -> None:
    class Empty(Purse):
        def current(self) -> str:
            raise NoToken(Phase.AUTH, "no token available")

    server = smtp_server()
    error = failure(server, tokens=Empty())
    assert (type(error), str(error)) == (NoToken, "auth: no token available")
    assert server.sessions == []


def test_a_server_that_takes_no_tokens_is_sent_none(smtp_server: Serve) -> None:
    server = smtp_server()
    error = failure(server, tokens=Purse("s3cret"))
    assert (type(error), error.phase) == (NotOffered, Phase.AUTH)
    assert "AUTH" not in server.sessions[0].verbs


def test_tokens_make_no_other_relay(smtp_server: Serve) -> None:
    """Tokens change, but an open session and the circuit breaker belong to the same relay."""
    server = smtp_server()
    one, other = relay_to(server, tokens=Purse("t0ken")), relay_to(server, tokens=Purse("other"))
    assert (one, hash(one), breaker.key(one)) == (other, hash(other), breaker.key(other))
    assert "t0ken" not in repr(one)


# -- TLS ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_an_untrusted_certificate_fails(smtp_server: Serve, tmp_path: Path, security: Security) -> None:
    stranger = make_certificates(tmp_path)
    server = smtp_server(security=security, tls_context=stranger.server_context())
    error = failure(server)
    assert (type(error), error.phase.before_mail) == (TLSFailed, True)
    assert "not trusted" in str(error)
    assert server.sessions[0].user is None


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_certificate_for_another_host_fails(
    smtp_server: Serve, tmp_path: Path, security: Security, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_certificates(tmp_path, names=("elsewhere.example",))
    monkeypatch.setenv("SSL_CERT_FILE", str(other.authority))
    server = smtp_server(security=security, tls_context=other.server_context())
    error = failure(server)
    assert type(error) is TLSFailed
    assert "localhost" in str(error)


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_relay_s_own_authority_is_trusted_and_no_other(
    smtp_server: Serve, tmp_path: Path, security: Security, certificates: Certificates
) -> None:
    """Not even the authority that this process trusts by SSL_CERT_FILE."""
    private = make_certificates(tmp_path)
    server = smtp_server(security=security, tls_context=private.server_context())
    with opened(server, ca_certificates=private.authority.read_text()) as session:
        assert session.tls_version
    both = certificates.authority.read_text() + "\n" + private.authority.read_text()
    with opened(server, ca_certificates=both) as session:
        assert session.tls_version
    trusted = smtp_server(security=security)
    with opened(trusted):
        pass
    error = failure(trusted, ca_certificates=private.authority.read_text())
    assert type(error) is TLSFailed
    assert "not trusted" in str(error)


@pytest.mark.parametrize(("security", "phase"), [("starttls", Phase.STARTTLS), ("tls", Phase.CONNECT)])
@pytest.mark.parametrize(
    "pem",
    [
        " ",
        "no PEM",
        "für mich",
        "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    ],
)
def test_authorities_that_cannot_be_read_are_reported(
    smtp_server: Serve, security: Security, phase: Phase, pem: str
) -> None:
    error = failure(smtp_server(security=security), ca_certificates=pem)
    assert (type(error), error.phase) == (TLSFailed, phase)
    assert error.detail == "the CA certificates of this configuration are not valid PEM"


def test_authorities_do_not_matter_without_tls(smtp_server: Serve) -> None:
    with opened(smtp_server(security="plain"), ca_certificates="no PEM") as session:
        assert session.tls_version == ""


@pytest.mark.parametrize("security", ["starttls", "tls"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_version_of_tls_is_known_also_when_the_session_is_over(
    smtp_server: Serve, certificates: Certificates, security: Security, version: ssl.TLSVersion
) -> None:
    context = certificates.server_context()
    context.minimum_version = context.maximum_version = version
    with opened(smtp_server(security=security, tls_context=context)) as session:
        assert session.tls_version == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
    assert session.is_closed
    assert session.tls_version


def test_a_tls_session_ticket_is_not_a_reply_of_the_server(certificates: Certificates) -> None:
    """Session tickets arrive whenever the server likes, and make the socket readable (RFC 8446 §4.6.1)."""
    over = threading.Event()

    def script(talk: Conversation) -> None:
        over.wait(PATIENCE)
        talk.say("220 hello")
        talk.hear()

    context = client_context(Relay(name="n", host="h"), Phase.CONNECT)
    with ScriptedServer(script, tls_context=certificates.server_context()) as server:
        connection = Connection(timeout=5, local_hostname="localhost")
        connection.dial("localhost", server.port, context)
        assert connection.sock is not None
        assert select.select([connection.sock], [], [], 5)[0]
        assert not connection.has_spoken()
        over.set()
        assert connection.hear().code == 220
        connection.close()


@pytest.mark.parametrize("own", [False, True])
def test_tls_older_than_1_2_is_refused_and_verification_is_never_off(certificates: Certificates, own: bool) -> None:
    pem = certificates.authority.read_text() if own else ""
    context = client_context(Relay(name="n", host="h", ca_certificates=pem), Phase.CONNECT)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


def test_replies_injected_after_the_answer_to_starttls_are_not_trusted(
    certificates: Certificates,
) -> None:
    """An attacker in between could otherwise answer EHLO and AUTH in the server's name (CVE-2011-0411)."""

    def script(talk: Conversation) -> None:
        talk.say("220 localhost")
        talk.hear()
        talk.say("250-localhost", "250 STARTTLS")
        talk.hear()
        talk.say("220 go on", "250 AUTH PLAIN")
        talk.hear()

    with ScriptedServer(script) as server:
        error = failure(server, use_tls=True, username="kim", password="s3cret")
    assert (type(error), error.phase, error.detail) == (ConnectionLost, Phase.STARTTLS, MALFORMED)
    assert server.heard[1:] == [b"STARTTLS", b""]


def test_a_greeting_too_many_is_noticed() -> None:
    with ScriptedServer(lambda talk: talk.answer(CONNECT="220 hello\n220 hello")) as server:
        error = failure(server)
    assert (type(error), error.phase, error.detail) == (ConnectionLost, Phase.EHLO, MALFORMED)


def test_without_starttls_nothing_goes_in_the_clear(smtp_server: Serve) -> None:
    server = smtp_server(security="plain")
    error = failure(server, use_tls=True)
    assert (type(error), error.phase) == (NotOffered, Phase.STARTTLS)
    assert set(server.sessions[0].verbs) == {"EHLO"}


def test_a_server_that_knows_only_helo_offers_nothing() -> None:
    with ScriptedServer(lambda talk: talk.answer(EHLO="502 what?")) as server:
        with opened(server) as session:
            assert session.is_idle
        assert type(failure(server, use_tls=True)) is NotOffered


def test_an_answer_to_starttls_that_is_not_220_is_no_leave_to_go_on_in_the_clear() -> None:
    with ScriptedServer(lambda talk: talk.answer(EHLO="250-localhost\n250 STARTTLS", STARTTLS="250 fine")) as server:
        error = failure(server, use_tls=True, username="kim", password="s3cret")
        assert (type(error), error.phase) == (Refused, Phase.STARTTLS)
    assert not any(line.startswith(b"AUTH") for line in server.heard)


def test_what_was_promised_before_tls_does_not_count_after_it(smtp_server: Serve) -> None:
    """The client discards the features of the first EHLO (RFC 3207 §4.2)."""
    server = smtp_server()
    with opened(server):
        pass
    assert server.sessions[0].verbs[:3] == ["EHLO", "STARTTLS", "EHLO"]


# -- failures -------------------------------------------------------------------------------------------------------

OPENING: list[tuple[Verb, Phase]] = [
    ("CONNECT", Phase.GREETING),
    ("EHLO", Phase.EHLO),
    ("STARTTLS", Phase.STARTTLS),
    ("AUTH", Phase.AUTH),
]


@pytest.mark.parametrize(("verb", "phase"), OPENING)
@pytest.mark.parametrize("reply", ["421 4.3.2 Shutting down", "454 4.7.0 Not now", "554 5.7.1 Never"])
def test_a_refusal_names_its_phase_and_code(smtp_server: Serve, verb: Verb, phase: Phase, reply: str) -> None:
    error = failure(smtp_server(faults=[Fault(verb=verb, reply=reply)]))
    # After a permanent refusal of EHLO the client sends HELO, and this server refuses that without STARTTLS.
    code = 530 if (verb, reply[0]) == ("EHLO", "5") else int(reply[:3])
    assert (type(error), error.phase, error.code) == (Refused, phase, code)


@pytest.mark.parametrize(("verb", "phase"), OPENING)
def test_a_dropped_connection_names_its_phase(smtp_server: Serve, verb: Verb, phase: Phase) -> None:
    error = failure(smtp_server(faults=[Fault(verb=verb, drop=True)]))
    assert (type(error), error.phase) == (ConnectionLost, phase)


@pytest.mark.parametrize(("verb", "phase"), OPENING)
def test_silence_ends_at_the_timeout(
    smtp_server: Serve, monkeypatch: pytest.MonkeyPatch, verb: Verb, phase: Phase
) -> None:
    patient_but(monkeypatch, verb)
    server = smtp_server(faults=[Fault(verb=verb, hang=True)])
    with soon():
        error = failure(server, timeout=0.3)
    assert (type(error), error.phase) == (ConnectionLost, phase)
    assert error.detail == "the server did not answer in time"


@pytest.mark.parametrize(("verb", "phase"), [*OPENING[:2], OPENING[3]])
@pytest.mark.parametrize(
    "answer", ["SSH-2.0-OpenSSH_9.2", "HTTP/1.1 400 Bad Request", "100 almost", "999 huh", "2" * 9000]
)
def test_what_is_not_smtp_is_called_so_and_is_no_reply(verb: Verb, phase: Phase, answer: str) -> None:
    """A code of -1 must not reach the database, which refuses negative codes."""
    replies = {"EHLO": "250-localhost\n250 AUTH PLAIN", verb: answer}
    with ScriptedServer(lambda talk: talk.answer(**replies)) as server:
        error = failure(server, username="kim", password="s3cret")
    assert (type(error), error.phase, error.code) == (ConnectionLost, phase, None)
    assert error.detail == "the server's reply is not valid SMTP"


def test_a_port_without_a_listener_is_a_failed_connection() -> None:
    relay = relay_to(SMTPServer(security="plain", user=None), port=free_port())
    with pytest.raises(CannotConnect, match="Connection refused"):
        Session.open(relay)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 70 + ".example.com", "..", "with space"])
def test_a_host_that_is_none_is_no_connection(smtp_server: Serve, host: str) -> None:
    assert type(failure(smtp_server(), host=host)) is CannotConnect


def test_a_port_that_is_none_is_no_connection(smtp_server: Serve) -> None:
    assert type(failure(smtp_server(), port=70_000)) is CannotConnect


def test_a_host_that_takes_no_connection_is_given_up_at_the_timeout() -> None:
    """A full accept queue drops packets, as a firewall does."""
    with socket.socket() as listener, contextlib.ExitStack() as crowd:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = crowd.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        relay = relay_to(SMTPServer(security="plain", user=None), port=listener.getsockname()[1], timeout=0.3)
        with soon(), pytest.raises(CannotConnect, match=r"the server did not answer within 0.3 s"):
            Session.open(relay)


@pytest.mark.parametrize(("use_tls", "use_ssl"), [(False, False), (True, False)])
def test_a_port_that_wants_tls_at_once_is_silent_to_others(smtp_server: Serve, use_tls: bool, use_ssl: bool) -> None:
    error = failure(smtp_server(security="tls"), use_tls=use_tls, use_ssl=use_ssl, timeout=0.3)
    assert (type(error), error.phase) == (ConnectionLost, Phase.GREETING)


def test_tls_at_once_to_a_port_that_does_not_speak_it_fails(smtp_server: Serve) -> None:
    error = failure(smtp_server(), use_tls=False, use_ssl=True)
    assert (type(error), error.phase) == (TLSFailed, Phase.CONNECT)


@pytest.mark.parametrize("given", ["s3cret-word", "s3cret-word in base64"])
def test_a_server_that_quotes_the_password_is_not_quoted(given: str) -> None:
    """Replies are stored and shown to users."""
    quoted = {"s3cret-word": "s3cret-word", "s3cret-word in base64": base64.b64encode(b"s3cret-word").decode()}[given]

    def script(talk: Conversation) -> None:
        talk.answer(EHLO="250-localhost\n250 AUTH PLAIN", AUTH=f"535 5.7.8 {quoted} is wrong")

    with ScriptedServer(script) as server, pytest.raises(Refused) as caught:
        Session.open(relay_to(server, username="user", password="s3cret-word"))
    assert caught.value.reply is not None
    assert caught.value.reply.text == "5.7.8 *** is wrong"
