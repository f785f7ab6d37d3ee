"""Logging in by OAuth 2.0: a real token endpoint, a real SMTP server that checks what it gave, one token for all."""

from __future__ import annotations

import datetime as dt
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.exceptions import ValidationError
from django.core.mail import EmailMessage
from django.db import connection, transaction
from django.urls import reverse
from django.utils import timezone

from config.local.certificates import Certificates, make_certificates
from config.local.processes import free_port
from config.local.smtp_server import SMTPServer
from email_integration import references, routing
from email_integration.admin.trials import run_stored, run_typed
from email_integration.alerts import look
from email_integration.checks.surroundings import check_rows
from email_integration.dashboard import standing
from email_integration.delivery import direct
from email_integration.delivery.attempt import attempt
from email_integration.delivery.dispatch import pool
from email_integration.diagnosis import configuration
from email_integration.diagnosis.findings import warning
from email_integration.models import Delivery, Grant, OAuthToken, RelayGate, SMTPConfig, rotation
from email_integration.models.login import token_digest
from email_integration.routing import gate, token_endpoint
from email_integration.routing.tokens import Tokens
from email_integration.smtp import NoToken, Relay
from tests.acceptance.test_password_nowhere import everything_stored
from tests.deliveries import ago, in_threads, submitted
from tests.integration.admin_site import form_of, logged_in, said, url
from tests.private_keys import certificate, key, pem, pem_of, service_account
from tests.relays import config_for
from tests.token_endpoint import ACCOUNT, CLIENT, REFRESH, SCOPE, SECRET, Response, TokenEndpoint, error
from tests.token_endpoint import said as answered

Serve = Callable[..., SMTPServer]
Configure = Callable[..., SMTPConfig]

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bell", "fresh_process")]

#: What no one may ever read: all that is secret here begins so.
NEVER_SHOWN = "zY7-"


@pytest.fixture(autouse=True)
def _patient(settings: Any) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "RETRY_FIRST": 60.0, "RETRY_MAX": 900.0}


@pytest.fixture
def endpoint(certificates: Certificates) -> Iterator[TokenEndpoint]:
    with TokenEndpoint(certificates) as running:
        yield running


@pytest.fixture
def server(smtp_server: Serve, endpoint: TokenEndpoint) -> SMTPServer:
    return smtp_server(check_token=endpoint.is_good)


@pytest.fixture
def configure(server: SMTPServer, endpoint: TokenEndpoint) -> Configure:
    def make(**changes: Any) -> SMTPConfig:
        return config_for(
            server,
            **{
                "authentication": "oauth",
                "oauth_endpoint": endpoint.url,
                "oauth_client_id": CLIENT,
                "oauth_client_secret": SECRET,
                "oauth_scope": SCOPE,
                **changes,
            },
        )

    return make


def relay() -> Relay:
    """The active one."""
    found = routing.active_relay()
    assert isinstance(found, Relay)
    return found


def tokens() -> Any:
    """Those of the active relay, as another process would have them."""
    routing.forget()
    return relay().tokens


def send(many: int = 1) -> list[Delivery]:
    """Submit, and try, so many."""
    deliveries = [submitted(subject=str(number)) for number in range(many)]
    for one in deliveries:
        attempt(one.pk)
    return list(Delivery.objects.filter(pk__in=[one.pk for one in deliveries]))


def nearly_over() -> None:
    """Let most of the token's hour pass."""
    OAuthToken.objects.update(fetched_at=ago(3500), expires_at=ago(-100))


def all_accepted(deliveries: list[Delivery]) -> bool:
    return {one.status for one in deliveries} == {"accepted"}


# -- a token's life -------------------------------------------------------------------------------------------------


def test_the_first_mail_fetches_a_token_and_the_others_use_it(
    configure: Configure, server: SMTPServer, endpoint: TokenEndpoint
) -> None:
    configure()
    assert all_accepted(send(3))
    pool.close()
    assert all_accepted(send(2))
    assert len(server.messages) == 5
    assert (server.auths, server.sessions[0].user) == (2, "user")
    assert endpoint.requests == [
        {"grant_type": "client_credentials", "client_id": CLIENT, "client_secret": SECRET, "scope": SCOPE}
    ]
    assert NEVER_SHOWN not in everything_stored()


def test_a_token_that_has_ended_in_mid_queue_is_replaced(
    configure: Configure, server: SMTPServer, endpoint: TokenEndpoint
) -> None:
    configure()
    before = send(2)
    OAuthToken.objects.update(expires_at=ago(1))
    endpoint.revoke()
    pool.close()
    assert all_accepted([*before, *send(2)])
    assert (len(server.messages), len(endpoint.requests), server.failed_auths) == (4, 2, 0)


def test_a_token_near_its_end_is_fetched_ahead(configure: Configure, endpoint: TokenEndpoint) -> None:
    configure()
    first = tokens().current()
    assert tokens().current() == first
    nearly_over()
    assert tokens().current() == endpoint.given[1]


def test_a_revoked_token_is_fetched_again_once_and_no_mail_waits(
    configure: Configure, server: SMTPServer, endpoint: TokenEndpoint
) -> None:
    configure()
    before = send()
    endpoint.revoke()
    pool.close()
    assert all_accepted([*before, *send()])
    assert (server.failed_auths, len(endpoint.requests), len(server.messages)) == (1, 2, 2)
    assert not RelayGate.objects.exists()


def test_an_open_session_goes_on(configure: Configure, server: SMTPServer, endpoint: TokenEndpoint) -> None:
    configure()
    before = send()
    endpoint.revoke()
    OAuthToken.objects.update(expires_at=ago(1))
    assert all_accepted([*before, *send()])
    assert (len(server.sessions), len(endpoint.requests)) == (1, 1)


def test_a_mailbox_that_the_app_may_not_use_stops_the_relay_and_burns_no_mail(
    configure: Configure, smtp_server: Serve, endpoint: TokenEndpoint
) -> None:
    server = smtp_server(check_token=lambda token: False)
    configure(port=server.port)
    found = send(10)
    assert {(one.status, one.code, one.waits_for_relay) for one in found} == {("deferred", 535, True)}
    assert (server.failed_auths, len(endpoint.requests), RelayGate.objects.count()) == (2, 2, 1)
    assert found[0].reason.startswith("the server refused the OAuth token")
    replies = {entry.reply for one in found for entry in one.attempt_log.all()}
    assert any("(status invalid_token, scope smtp)" in reply for reply in replies)


def test_a_token_is_no_other_relay(configure: Configure) -> None:
    """Or each new one would have a pool and a gate of its own."""
    configure()
    before = relay()
    assert before.tokens is not None
    before.tokens.another()
    routing.forget()
    after = relay()
    assert (before, gate.key(before)) == (after, gate.key(after))
    assert NEVER_SHOWN not in repr(after)


# -- the endpoint ---------------------------------------------------------------------------------------------------


def _html() -> Response:
    return 200, {"Content-Type": "text/html"}, b"<html>Log in, zY7-html</html>"


def _elsewhere() -> Response:
    return 302, {"Location": "https://localhost/zY7-elsewhere"}, b""


ANSWERS: list[tuple[Callable[[], Response], str]] = [
    (_html, "something other than JSON"),
    (_elsewhere, "redirects elsewhere"),
    (lambda: error("invalid_client", 401), "the client secret is wrong or has ended (invalid_client, AADSTS7000215)"),
    (lambda: error("invalid_scope"), "does not know the scope (invalid_scope, AADSTS7000215)"),
    (lambda: error("zY7-Secret"), "refused: 400, AADSTS7000215"),
    (lambda: (503, {}, b"{}"), "refused: 503"),
    (lambda: answered({"access_token": "zY7\1", "token_type": "Bearer"}), "no bearer token"),
    (lambda: answered({"access_token": "zY7-x", "token_type": "mac"}), "no bearer token"),
    (lambda: answered([1]), "something other than JSON"),
    (lambda: (200, {}, b'{"access_token": "' + b"x" * 100_000), "something other than JSON"),
]


@pytest.mark.parametrize(("answer", "words"), ANSWERS, ids=[words for _, words in ANSWERS])
def test_what_is_no_token_is_told_in_words_and_the_mail_waits(
    configure: Configure,
    server: SMTPServer,
    endpoint: TokenEndpoint,
    answer: Callable[[], Response],
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    configure()
    endpoint.instead = answer
    found = send(5)
    assert {(one.status, one.waits_for_relay) for one in found} == {("deferred", True)}
    assert (len(endpoint.requests), server.sessions) == (1, [])
    for told in (found[0].reason, OAuthToken.objects.get().error, RelayGate.objects.get().reason, caplog.text):
        assert words in told
    assert NEVER_SHOWN not in everything_stored() + caplog.text
    endpoint.instead = None
    RelayGate.objects.all().delete()
    OAuthToken.objects.update(failed_at=ago(61))
    for one in found:
        Delivery.objects.filter(pk=one.pk).update(due_at=ago(0))
        attempt(one.pk)
    assert len(server.messages) == 5
    assert OAuthToken.objects.get().error == ""


def test_an_endpoint_that_is_down_is_named(configure: Configure) -> None:
    configure(oauth_endpoint=f"http://127.0.0.1:{free_port()}/token")
    assert send()[0].reason == "the token endpoint 127.0.0.1 does not answer (the connection was refused) (auth)"


def test_an_endpoint_that_hangs_is_given_up(
    configure: Configure, endpoint: TokenEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure()
    monkeypatch.setattr(token_endpoint, "PATIENCE", 0.3)
    ended = threading.Event()

    def hang() -> Response:
        ended.wait(60)
        return _html()

    endpoint.instead = hang
    try:
        assert "does not answer (no answer in time)" in send()[0].reason
    finally:
        ended.set()


def test_an_endpoint_nobody_vouches_for_gets_nothing(configure: Configure, tmp_path: Any) -> None:
    with TokenEndpoint(make_certificates(tmp_path)) as stranger:
        configure(oauth_endpoint=stranger.url)
        assert "its certificate is not trusted" in send()[0].reason
        assert stranger.requests == []


def test_an_old_token_is_used_while_the_endpoint_is_down_and_it_is_left_alone(
    configure: Configure, endpoint: TokenEndpoint
) -> None:
    configure()
    first = tokens().current()
    nearly_over()
    endpoint.instead = _html
    assert [tokens().current() for _ in range(5)] == [first] * 5
    assert len(endpoint.requests) == 2


# -- several at once ------------------------------------------------------------------------------------------------


def test_of_many_at_once_one_fetches(configure: Configure, endpoint: TokenEndpoint) -> None:
    configure()
    sources = [tokens() for _ in range(8)]
    assert in_threads(*(one.current for one in sources)) == endpoint.given * 8
    assert len(endpoint.requests) == 1


def test_a_token_that_came_while_one_looked_is_used(
    configure: Configure, endpoint: TokenEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the first look, which finds none, and the lease, somebody else has fetched it."""
    configure()
    late = tokens()
    looks = iter([None])
    first = tokens().current()
    read = Tokens._read
    monkeypatch.setattr(Tokens, "_read", lambda self: next(looks, read(self)))
    assert late.current() == first
    assert len(endpoint.requests) == 1


def test_of_many_that_are_refused_one_fetches(configure: Configure, endpoint: TokenEndpoint) -> None:
    configure()
    old = tokens().current()
    sources = [tokens() for _ in range(8)]
    got = in_threads(*((lambda one=one: one.another(old)) for one in sources))
    assert got == [endpoint.given[1]] * 8
    assert len(endpoint.requests) == 2


def test_of_many_at_an_endpoint_that_refuses_one_asks(configure: Configure, endpoint: TokenEndpoint) -> None:
    configure()
    endpoint.instead = lambda: error("invalid_client", 401)
    sources = [tokens() for _ in range(8)]
    assert all(isinstance(one, NoToken) for one in in_threads(*(one.current for one in sources)))
    assert len(endpoint.requests) == 1


def test_nobody_waits_for_a_new_token_while_the_old_one_is_good(configure: Configure, endpoint: TokenEndpoint) -> None:
    configure()
    old = tokens().current()
    nearly_over()
    asked, may_answer = threading.Event(), threading.Event()

    def slowly() -> Response:
        asked.set()
        may_answer.wait(60)
        return _html()

    endpoint.instead = slowly
    refresher = threading.Thread(target=lambda: (tokens().current(), connection.close()))
    refresher.start()
    try:
        assert asked.wait(60)
        assert tokens().current() == old
    finally:
        may_answer.set()
        refresher.join(60)
    assert len(endpoint.requests) == 2


def test_whoever_dies_while_fetching_is_waited_for_no_longer_than_its_lease(
    configure: Configure, endpoint: TokenEndpoint
) -> None:
    config = configure()
    digest = token_digest(config)
    OAuthToken.objects.create(config=config, settings=digest, lease="dead", lease_until=ago(0))
    assert tokens().current() == endpoint.given[0]


# -- refresh tokens -------------------------------------------------------------------------------------------------


def test_a_refresh_token_that_is_replaced_is_used_from_then_on(configure: Configure, endpoint: TokenEndpoint) -> None:
    endpoint.rotates = True
    config = configure(oauth_grant=Grant.REFRESH_TOKEN, oauth_refresh_token=REFRESH)
    tokens().current()
    tokens().another()
    assert [form["refresh_token"] == REFRESH for form in endpoint.requests] == [True, False]
    assert NEVER_SHOWN not in everything_stored()
    assert run_stored(config, user=None).report is not None
    assert len(endpoint.given) == 3


def test_a_refresh_token_that_was_withdrawn_is_said_to_be(configure: Configure, endpoint: TokenEndpoint) -> None:
    configure(oauth_grant=Grant.REFRESH_TOKEN, oauth_refresh_token=REFRESH)
    endpoint.refresh_tokens.clear()
    assert "the refresh token has ended, or was withdrawn (invalid_grant" in send()[0].reason


def test_other_settings_have_another_token(configure: Configure, endpoint: TokenEndpoint) -> None:
    config = configure()
    first = tokens().current()
    config.name = "Renamed"
    config.save()
    assert tokens().current() == first
    config.oauth_scope = ""
    config.save()
    assert tokens().current() != first


# -- private keys ---------------------------------------------------------------------------------------------------


def by_certificate(endpoint: TokenEndpoint, **changes: Any) -> dict[str, Any]:
    """What a configuration has instead of a secret, known at the endpoint."""
    endpoint.certificate = certificate(key())
    return {"oauth_client_secret": "", "oauth_private_key": pem(key()) + pem_of(endpoint.certificate), **changes}


def by_service_account(endpoint: TokenEndpoint, **changes: Any) -> dict[str, Any]:
    endpoint.public_key = key().public_key()
    file = service_account(key(), endpoint.url)
    return {
        "oauth_grant": Grant.JWT_BEARER,
        "oauth_client_id": ACCOUNT,
        "oauth_client_secret": "",
        "oauth_private_key": file,
        **changes,
    }


PROVEN = pytest.mark.parametrize("proven", [by_certificate, by_service_account], ids=["certificate", "service account"])
Proven = Callable[..., dict[str, Any]]


@PROVEN
def test_a_signature_takes_the_place_of_a_secret(
    configure: Configure, server: SMTPServer, endpoint: TokenEndpoint, proven: Proven
) -> None:
    """The endpoint checks signature, sender, audience, life, and that none is shown twice."""
    configure(**proven(endpoint))
    assert all_accepted(send(2))
    tokens().another()
    assert (len(server.messages), len(endpoint.given), len(endpoint.requests)) == (2, 2, 2)
    assert not any("client_secret" in form for form in endpoint.requests)


def test_a_key_in_pem_asks_in_the_name_of_the_client_id(configure: Configure, endpoint: TokenEndpoint) -> None:
    configure(**by_service_account(endpoint, oauth_private_key=pem(key()), oauth_scope=""))
    assert tokens().current() == endpoint.given[0]


REFUSED_KEYS: list[tuple[Proven, str]] = [
    (by_certificate, "the certificate is not registered with it or has ended (invalid_client"),
    (by_service_account, "it does not know the key or the mailbox, or the key was withdrawn (invalid_grant"),
]


@pytest.mark.parametrize(("proven", "words"), REFUSED_KEYS, ids=["certificate", "service account"])
def test_another_key_is_refused_and_the_mail_waits(
    configure: Configure,
    endpoint: TokenEndpoint,
    proven: Proven,
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = configure(**proven(endpoint))
    endpoint.certificate, endpoint.public_key = certificate(key("other")), key("other").public_key()
    endpoint.certificate = endpoint.certificate if proven is by_certificate else None
    waiting = send()
    assert (waiting[0].status, waiting[0].waits_for_relay) == ("deferred", True)
    assert words in waiting[0].reason
    assert (len(endpoint.requests), endpoint.given) == (1, [])
    told = everything_stored() + caplog.text
    assert not [line for line in config.oauth_private_key.splitlines() if len(line) > 60 and line in told]
    assert NEVER_SHOWN not in told


def test_another_mailbox_is_refused(configure: Configure, endpoint: TokenEndpoint) -> None:
    configure(**by_service_account(endpoint, username="boss@example.com"))
    assert "it does not know the key or the mailbox" in send()[0].reason


def test_another_mailbox_has_another_token(configure: Configure, endpoint: TokenEndpoint) -> None:
    config = configure(**by_service_account(endpoint))
    tokens().current()
    config.username = endpoint.mailbox = "other"
    config.save()
    assert tokens().current() == endpoint.given[1]


@PROVEN
@pytest.mark.parametrize("ahead", [-900.0, 900.0])
def test_a_wrong_clock_is_said_to_be_one(
    configure: Configure, endpoint: TokenEndpoint, proven: Proven, ahead: float
) -> None:
    configure(**proven(endpoint))
    endpoint.ahead = ahead
    reason = send()[0].reason
    assert "the clock of this machine may be wrong (invalid_" in reason
    assert NEVER_SHOWN not in reason


@pytest.mark.parametrize(
    "words",
    [
        "AADSTS700024: Client assertion is not within its valid time range.",
        "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. "
        "Check your iat and exp values in the JWT claim.",
    ],
    ids=["Microsoft", "Google"],
)
def test_a_wrong_clock_is_known_by_the_words_of_two_providers(
    configure: Configure, endpoint: TokenEndpoint, words: str
) -> None:
    configure(**by_certificate(endpoint))
    endpoint.instead = lambda: error("invalid_grant", words=words)
    assert "the clock of this machine may be wrong (invalid_grant" in send()[0].reason


def test_a_key_that_cannot_be_used_is_refused_in_the_form_and_makes_mail_wait(
    configure: Configure, endpoint: TokenEndpoint
) -> None:
    """Which cannot be used is in tests/unit/test_private_key.py."""
    config = configure(oauth_client_secret="", oauth_private_key=pem(key()) + pem_of(certificate(key(), days=-1)))
    with pytest.raises(ValidationError) as caught:
        config.full_clean()
    assert caught.value.message_dict == {"oauth_private_key": ["The certificate has ended."]}
    assert send()[0].reason == "the private key cannot be used: The certificate has ended (auth)"
    assert endpoint.requests == []


def test_without_the_library_one_is_told_what_to_install(
    configure: Configure, endpoint: TokenEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(**by_certificate(endpoint))
    monkeypatch.setitem(sys.modules, "jwt", None)
    with pytest.raises(ValidationError) as caught:
        config.full_clean()
    install = "pip install 'celery-mail-dispatch[oauth]'"
    assert install in caught.value.message_dict["oauth_private_key"][0]
    assert install in send()[0].reason
    assert install in check_rows(databases=["default"])[0].msg


def test_of_a_secret_and_a_key_what_was_entered_last_is_kept(configure: Configure, endpoint: TokenEndpoint) -> None:
    config = configure()
    config.oauth_private_key = by_certificate(endpoint)["oauth_private_key"]
    config.save()
    stored = SMTPConfig.objects.get()
    assert (bool(stored.oauth_private_key), stored.oauth_client_secret) == (True, "")
    stored.oauth_client_secret = SECRET
    stored.save()
    stored = SMTPConfig.objects.get()
    assert (stored.oauth_private_key, stored.oauth_client_secret) == ("", SECRET)
    stored.oauth_private_key = pem(key())
    stored.oauth_grant = Grant.REFRESH_TOKEN
    stored.save()
    assert SMTPConfig.objects.get().oauth_private_key == ""


def test_the_page_takes_a_service_accounts_file_and_never_shows_it(
    configure: Configure, endpoint: TokenEndpoint
) -> None:
    config = configure()
    client = logged_in(superuser=True)
    file = by_service_account(endpoint)["oauth_private_key"]
    fields = oauth_fields(config, oauth_grant="jwt_bearer", oauth_private_key=file, oauth_client_id="")
    refused = client.post(url("change", config.pk), form_of(config, **{**fields, "port": ""}))
    assert refused.status_code == 200
    assert "private_key_id" not in refused.content.decode()
    answer = client.post(url("change", config.pk), form_of(config, **fields), follow=True)
    assert "was changed successfully" in said(answer)
    stored = SMTPConfig.objects.get()
    assert (stored.oauth_client_id, stored.oauth_client_secret) == (ACCOUNT, "")
    assert tokens().current() == endpoint.given[0]
    again = client.post(url("change", config.pk), form_of(stored, **oauth_fields(stored), timeout=7), follow=True)
    assert "was changed successfully" in said(again)
    pages = again.content + client.get(url("change", config.pk)).content + client.get(url("history", config.pk)).content
    assert b"0123456789abcdef" not in pages
    assert b"PRIVATE KEY-----\\n" not in pages
    assert SMTPConfig.objects.get().oauth_private_key.strip() == file
    moved = form_of(stored, **oauth_fields(stored), username="boss")
    assert "Enter the secret again" in client.post(url("change", config.pk), moved).content.decode()


@pytest.mark.parametrize("at", ["when it is entered", "when it is used"])
def test_the_end_of_a_certificate_is_known(configure: Configure, endpoint: TokenEndpoint, at: str) -> None:
    """And it is another one when another certificate is used, though nobody has entered it."""
    config = configure(**by_certificate(endpoint, oauth_secret_ends=ago(0).date()))
    assert endpoint.certificate is not None
    if at == "when it is used":
        before = SMTPConfig.objects.get().version
        tokens().current()
        config = SMTPConfig.objects.get()
        assert config.version == before
    else:
        config.full_clean()
    assert config.oauth_secret_ends == endpoint.certificate.not_valid_after_utc.date()


def test_a_secret_that_ends_soon_is_told_of_by_all_that_look(
    configure: Configure, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ends = timezone.localdate() + dt.timedelta(days=10)
    config = configure(oauth_secret_ends=ends)
    page = url("change", config.pk)
    client = logged_in(superuser=True)
    told = f"The client secret of Primary Mail Server ends on {ends}"
    assert configuration.passwords()[-1] == warning("smtp.secret", told, "Replace it in the admin before then.")
    assert "what it is fetched with ends on" in client.get(page).content.decode()
    assert (look(), look()) == (1, 1)
    assert caplog.text.count(told) == 1
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SECRET_ENDS_WITHIN": 5}
    assert look() == 0
    assert "Alert over: The client secret" in caplog.text
    assert configuration.passwords()[-1].level != "warning"
    assert "what it is fetched with ends on" not in client.get(page).content.decode()
    entered = form_of(config, **oauth_fields(config), oauth_secret_ends=timezone.localdate() - dt.timedelta(days=1))
    assert "was changed successfully" in said(client.post(page, entered, follow=True))
    assert "ended on" in configuration.passwords()[-1].text


# -- secrets kept elsewhere -------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, settings: Any) -> Path:
    """A file that a secret may be in."""
    allowed = [f"file:{tmp_path}/*", "env:SMTP_*"]
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SECRET_REFERENCES": allowed}
    return tmp_path / "secret"


def test_a_client_secret_that_is_another_by_now_is_read_again(
    configure: Configure, server: SMTPServer, endpoint: TokenEndpoint, place: Path
) -> None:
    """The process knows the old one; the endpoint refuses it, and no mail waits."""
    place.write_text(f"{SECRET}\n")
    config = configure(oauth_client_secret=f"file:{place}")
    config.full_clean()
    first = send()
    endpoint.secret = "zY7-another"
    place.write_text("zY7-another\n")
    endpoint.revoke()
    pool.close()
    assert all_accepted([*first, *send()])
    assert [form["client_secret"] for form in endpoint.requests] == [SECRET, SECRET, "zY7-another"]
    assert not RelayGate.objects.exists()
    assert SMTPConfig.objects.get().oauth_client_secret == f"file:{place}"
    assert NEVER_SHOWN not in everything_stored()


def test_a_private_key_may_be_in_a_variable(
    configure: Configure, endpoint: TokenEndpoint, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTP_PEM", by_certificate(endpoint)["oauth_private_key"])
    config = configure(oauth_client_secret="", oauth_private_key="env:SMTP_PEM")
    config.oauth_private_key = "env:SMTP_PEM"
    config.full_clean()
    assert endpoint.certificate is not None
    assert config.oauth_secret_ends == endpoint.certificate.not_valid_after_utc.date()
    config.save()
    assert tokens().current() == endpoint.given[0]
    assert SMTPConfig.objects.get().oauth_private_key == "env:SMTP_PEM"
    monkeypatch.setenv("SMTP_PEM", pem(key()))
    stored = SMTPConfig.objects.get()
    stored.oauth_private_key = "env:SMTP_PEM"
    references.forget()
    with pytest.raises(ValidationError, match="The certificate is missing"):
        stored.full_clean()


def test_a_new_refresh_token_is_found_where_it_is_kept_though_the_endpoint_had_given_another(
    configure: Configure, endpoint: TokenEndpoint, place: Path
) -> None:
    endpoint.rotates = True
    place.write_text(REFRESH)
    configure(oauth_grant=Grant.REFRESH_TOKEN, oauth_refresh_token=f"file:{place}")
    tokens().current()
    tokens().another()
    endpoint.refresh_tokens = {"zY7-consented-anew"}
    with pytest.raises(NoToken):
        tokens().another()
    place.write_text("zY7-consented-anew")
    OAuthToken.objects.update(failed_at=ago(61))
    assert tokens().another() == endpoint.given[2]


def test_a_secret_that_cannot_be_had_is_named_and_the_mail_waits(
    configure: Configure, endpoint: TokenEndpoint, place: Path
) -> None:
    config = configure(oauth_client_secret=f"file:{place}")
    with pytest.raises(ValidationError) as caught:
        SMTPConfig(**{name: getattr(config, name) for name in OF_ONE}, name="Other").full_clean()
    assert "There is no file" in caught.value.message_dict["oauth_client_secret"][0]
    found = send()[0]
    assert (found.status, found.waits_for_relay) == ("deferred", True)
    assert found.reason.startswith(f"the client secret cannot be had: There is no file {place}")
    assert endpoint.requests == []
    config.full_clean()  # what is stored does not keep one from mending the rest
    config.is_active = False
    config.save()
    named = [one.text for one in configuration.passwords()]
    assert any(text.startswith("The client secret of “Primary Mail Server”, which is not active") for text in named)
    page = logged_in(superuser=True).get(url("change", config.pk)).content.decode()
    assert "This is kept elsewhere (“file:”)" in page


#: What a configuration that logs in by a client secret is made of.
OF_ONE = (
    "host",
    "port",
    "username",
    "authentication",
    "oauth_endpoint",
    "oauth_client_id",
    "oauth_client_secret",
    "from_email",
    "use_tls",
    "use_ssl",
)


# -- in somebody's transaction --------------------------------------------------------------------------------------


def test_a_token_that_is_fetched_in_a_transaction_is_kept_after_it(
    configure: Configure, endpoint: TokenEndpoint
) -> None:
    """Nobody has to wait for the end of that transaction, which may be long."""
    configure()
    message = EmailMessage("S", "B", "noreply@example.com", ["kim@example.com"])
    with transaction.atomic():
        direct.send_now(message)
        assert not OAuthToken.objects.exists()
    assert tokens().current() == endpoint.given[0]
    assert len(endpoint.requests) == 1


# -- what is stored -------------------------------------------------------------------------------------------------


def test_what_the_way_to_log_in_does_not_use_is_not_kept(configure: Configure) -> None:
    config = configure(password="s3cret", oauth_refresh_token=REFRESH)
    assert (config.password, config.oauth_refresh_token, config.oauth_client_secret) == ("", "", SECRET)
    config.authentication = "password"
    config.save()
    config = SMTPConfig.objects.get()
    assert (config.oauth_client_secret, config.oauth_endpoint, config.oauth_client_id) == ("", "", "")
    config.authentication = "none"
    config.save()
    assert SMTPConfig.objects.get().username == ""
    assert relay().username == ""


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"username": ""}, "username"),
        ({"oauth_client_id": ""}, "oauth_client_id"),
        ({"oauth_client_secret": ""}, "oauth_client_secret"),
        ({"oauth_endpoint": ""}, "oauth_endpoint"),
        ({"oauth_endpoint": "http://login.example.com/token"}, "oauth_endpoint"),
        ({"oauth_endpoint": "ftp://localhost/token"}, "oauth_endpoint"),
        ({"oauth_grant": "refresh_token", "is_active": True}, "oauth_refresh_token"),
        ({"oauth_grant": "refresh_token", "oauth_authorization_endpoint": "ftp://x"}, "oauth_authorization_endpoint"),
        ({"host": "smtp.example.com", "use_tls": False}, "use_tls"),
    ],
)
def test_what_cannot_work_is_said_at_its_field(configure: Configure, changes: dict[str, Any], field: str) -> None:
    config = configure(is_active=False)
    for name, value in {**changes, "pk": None, "name": "Other"}.items():
        setattr(config, name, value)
    with pytest.raises(ValidationError) as caught:
        config.full_clean()
    assert field in caught.value.message_dict


@pytest.mark.parametrize("change", ["host", "oauth_endpoint", "username"])
def test_a_stored_secret_goes_nowhere_else_unseen(configure: Configure, change: str) -> None:
    config = configure()
    setattr(config, change, "https://elsewhere.example.com" if change == "oauth_endpoint" else "elsewhere.example.com")
    with pytest.raises(ValidationError) as caught:
        config.full_clean()
    assert list(caught.value.message_dict) == ["oauth_client_secret"]


def test_a_row_that_lacks_something_is_nowhere(configure: Configure, server: SMTPServer) -> None:
    config = configure()
    SMTPConfig.objects.filter(pk=config.pk).update(oauth_endpoint="file:///etc/passwd")
    assert "cannot be used" in send()[0].reason


def test_the_keys_of_all_secrets_are_changed_together(
    configure: Configure, endpoint: TokenEndpoint, settings: Any
) -> None:
    configure(**by_certificate(endpoint))
    token = tokens().current()
    old = settings.EMAIL_INTEGRATION["SMTP_PASSWORD_KEYS"]
    new = Fernet.generate_key().decode()
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SMTP_PASSWORD_KEYS": [new, *old]}
    assert rotation.rotate().rotated == ("Primary Mail Server",)
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SMTP_PASSWORD_KEYS": [new]}
    assert SMTPConfig.objects.get().oauth_private_key.startswith("-----BEGIN PRIVATE KEY-----")
    assert OAuthToken.objects.get().access_token == token


# -- people ---------------------------------------------------------------------------------------------------------


def test_a_test_fetches_a_token_and_shows_it_as_a_step(configure: Configure, endpoint: TokenEndpoint) -> None:
    config = configure()
    for number in (1, 2):
        trial = run_stored(config, user=None)
        assert trial.report is not None
        assert trial.report.ok
        assert trial.report.steps[0].kind == "token"
        assert len(endpoint.requests) == number
    endpoint.instead = lambda: error("invalid_scope")
    trial = run_stored(config, user=None)
    assert trial.report is not None
    assert (trial.report.ok, trial.report.connected) == (False, False)
    assert "invalid_scope" in trial.report.steps[0].detail
    assert trial.advice is not None
    assert trial.advice.key == "token-endpoint"


def test_what_is_only_typed_leaves_the_token_in_use_alone(configure: Configure, endpoint: TokenEndpoint) -> None:
    config = configure()
    token = tokens().current()
    typed = form_of(config, **oauth_fields(config, oauth_scope="", oauth_client_secret=SECRET))
    trial = run_typed(config, typed, user=None)
    assert trial.report is not None
    assert trial.report.ok
    assert len(endpoint.requests) == 2
    assert OAuthToken.objects.get().access_token == token


def oauth_fields(config: SMTPConfig, **changes: Any) -> dict[str, Any]:
    """What a browser sends beside ``form_of``."""
    names = ("authentication", "oauth_grant", "oauth_endpoint", "oauth_client_id", "oauth_scope")
    return {**{name: getattr(config, name) for name in names}, "oauth_client_secret": "", **changes}


def test_the_page_keeps_the_secret_shows_none_and_forgets_what_was_left(
    configure: Configure, endpoint: TokenEndpoint
) -> None:
    config = configure()
    tokens().current()
    client = logged_in(superuser=True)
    page = client.get(url("change", config.pk))
    assert NEVER_SHOWN not in page.content.decode()
    assert "valid until" in page.content.decode()
    answer = client.post(url("change", config.pk), form_of(config, **oauth_fields(config)), follow=True)
    assert "was changed successfully" in said(answer)
    assert SMTPConfig.objects.get().oauth_client_secret == SECRET
    endpoint.instead = lambda: error("invalid_client", 401)
    with pytest.raises(NoToken):
        tokens().another()
    assert "invalid_client" in client.get(url("change", config.pk)).content.decode()
    changes = {"authentication": "password", "password": "s3cret"}
    client.post(url("change", config.pk), form_of(config, **{**oauth_fields(config), **changes}))
    stored = SMTPConfig.objects.get()
    assert (stored.password, stored.oauth_client_secret, stored.oauth_endpoint) == ("s3cret", "", "")
    assert NEVER_SHOWN not in client.get(url("history", config.pk)).content.decode()


def test_whoever_does_not_say_how_to_log_in_leaves_it_as_it_is(configure: Configure) -> None:
    """A form that is filled in by a program may be older than the field."""
    config = configure()
    fields = {**oauth_fields(config), "authentication": None, "oauth_grant": None, "timeout": 7}
    logged_in(superuser=True).post(url("change", config.pk), form_of(config, **fields))
    stored = SMTPConfig.objects.get()
    assert (stored.timeout, stored.authentication, stored.oauth_client_secret) == (7, "oauth", SECRET)


def test_the_history_says_that_a_secret_changed_and_not_what_it_is(configure: Configure) -> None:
    config = configure()
    config.oauth_client_secret = "zY7-another"
    config.save()
    assert [entry.password_changed for entry in config.history.all()[:2]] == [True, True]
    config.timeout = 6
    config.save()
    assert config.history.first().password_changed is False
    assert NEVER_SHOWN not in everything_stored()


def test_the_examination_tells_of_the_token(configure: Configure, endpoint: TokenEndpoint) -> None:
    configure()
    assert configuration.passwords()[-1].text == "No OAuth token was fetched yet"
    tokens().current()
    assert configuration.passwords()[-1].text.startswith("The OAuth token is valid until ")
    endpoint.instead = lambda: error("invalid_client", 401)
    with pytest.raises(NoToken):
        tokens().another()
    found = configuration.passwords()[-1]
    assert found.text.startswith("No OAuth token could be fetched: the token endpoint localhost refused")
    assert found.level == "warning"


def test_mended_settings_let_through_what_waited_for_a_token(configure: Configure) -> None:
    config = configure(oauth_client_secret="wrong")
    waiting = send(3)
    assert RelayGate.objects.count() == 1
    config.oauth_client_secret = SECRET
    config.save()
    assert not RelayGate.objects.exists()
    for one in waiting:
        attempt(one.pk)
    assert all_accepted(list(Delivery.objects.all()))


def test_the_dashboard_tells_of_the_token_that_mail_goes_by(
    configure: Configure, endpoint: TokenEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until when it is good, why there is no newer one, and of either only what is so now."""
    monkeypatch.setattr(standing, "FOR_WORKERS", 0.02)  # there are none
    client = logged_in(superuser=True)

    def shown() -> tuple[bool, bool]:
        page = client.get(reverse("admin:email_integration_dashboard")).content.decode()
        assert NEVER_SHOWN not in page
        assert ("invalid_client" in page) == ("OAuth token: none could be fetched" in page)
        return "OAuth token: valid until" in page, "OAuth token: none could be fetched" in page

    config = configure()
    assert shown() == (False, False)
    tokens().current()
    assert shown() == (True, False)
    endpoint.instead = lambda: error("invalid_client", 401)
    with pytest.raises(NoToken):
        tokens().another()
    assert shown() == (True, True)
    OAuthToken.objects.update(expires_at=ago(1))
    assert shown() == (False, True)
    config.oauth_scope = ""
    config.save()
    assert shown() == (False, False)
