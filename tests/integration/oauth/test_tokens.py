"""Login by OAuth 2.0, with a real token endpoint and a real SMTP server that checks the token. All processes share one
token.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.db import connection, transaction

from config.local.certificates import make_certificates
from config.local.processes import PATIENCE, free_port
from email_integration import routing
from email_integration.admin.connection_tests import run_stored
from email_integration.models import CircuitBreaker, Delivery, Grant, OAuthToken
from email_integration.models.login import token_digest
from email_integration.routing import breaker, token_endpoint
from email_integration.routing.tokens import StoredTokens
from email_integration.sending import direct
from email_integration.sending.sessions import pool
from email_integration.smtp import NoToken
from email_integration.smtpd import SMTPServer
from tests.acceptance.test_password_nowhere import everything_stored
from tests.deliveries import ago, attempt, in_threads
from tests.token_endpoint import CLIENT, REFRESH, SCOPE, SECRET, Response, TokenEndpoint, error
from tests.token_endpoint import said as answered

from .asking import NEVER_SHOWN, Configure, Serve, all_accepted, nearly_over, relay, send, tokens

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("task_queue", "fresh_process")]


# -- lifetime of a token ----------------------------------------------------------------------------------------------


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
    assert not CircuitBreaker.objects.exists()


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
    assert (server.failed_auths, len(endpoint.requests), CircuitBreaker.objects.count()) == (2, 2, 1)
    assert found[0].reason.startswith("the server refused the OAuth token")
    replies = {entry.reply for one in found for entry in one.attempt_log.all()}
    assert any("(status invalid_token, scope smtp)" in reply for reply in replies)


def test_a_token_is_no_other_relay(configure: Configure) -> None:
    """Otherwise each new token would have its own pool and its own circuit breaker."""
    configure()
    before = relay()
    assert before.tokens is not None
    before.tokens.another()
    routing.forget()
    after = relay()
    assert (before, breaker.key(before)) == (after, breaker.key(after))
    assert NEVER_SHOWN not in repr(after)


# -- the endpoint -----------------------------------------------------------------------------------------------------


def _html() -> Response:
    return 200, {"Content-Type": "text/html"}, b"<html>Log in, zY7~html</html>"


def _elsewhere() -> Response:
    return 302, {"Location": "https://localhost/zY7~elsewhere"}, b""


ANSWERS: list[tuple[Callable[[], Response], str]] = [
    (_html, "without JSON"),
    (_elsewhere, "answered with a redirect"),
    (lambda: error("invalid_client", 401), "the client secret is wrong or has expired (invalid_client, AADSTS7000215)"),
    (lambda: error("invalid_scope"), "does not know the scope (invalid_scope, AADSTS7000215)"),
    (lambda: error("zY7~Secret"), "refused the request: 400, AADSTS7000215"),
    (lambda: (503, {}, b"{}"), "refused the request: 503"),
    (lambda: answered({"access_token": "zY7\1", "token_type": "Bearer"}), "without a bearer token"),
    (lambda: answered({"access_token": "zY7~x", "token_type": "mac"}), "without a bearer token"),
    (lambda: answered([1]), "without JSON"),
    (lambda: (200, {}, b'{"access_token": "' + b"x" * 100_000), "without JSON"),
]


@pytest.mark.parametrize(("answer", "words"), ANSWERS, ids=[words for _, words in ANSWERS])
def test_what_is_no_token_is_explained_in_words_and_the_mail_waits(
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
    for shown in (found[0].reason, OAuthToken.objects.get().error, CircuitBreaker.objects.get().reason, caplog.text):
        assert words in shown
    assert NEVER_SHOWN not in everything_stored() + caplog.text
    endpoint.instead = None
    CircuitBreaker.objects.all().delete()
    OAuthToken.objects.update(failed_at=ago(61))
    for one in found:
        Delivery.objects.filter(pk=one.pk).update(due_at=ago(1), next_at=ago(1))
        attempt(one.pk)
    assert len(server.messages) == 5
    assert OAuthToken.objects.get().error == ""


def test_an_endpoint_that_is_down_is_named(configure: Configure) -> None:
    configure(oauth_endpoint=f"http://127.0.0.1:{free_port()}/token")
    assert send()[0].reason == "the token endpoint 127.0.0.1 could not be reached (the connection was refused) (auth)"


def test_an_endpoint_that_hangs_is_given_up(
    configure: Configure, endpoint: TokenEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure()
    monkeypatch.setattr(token_endpoint, "PATIENCE", 0.3)
    ended = threading.Event()

    def hang() -> Response:
        ended.wait(PATIENCE)
        return _html()

    endpoint.instead = hang
    try:
        assert "could not be reached (no answer in time)" in send()[0].reason
    finally:
        ended.set()


def test_an_endpoint_with_an_untrusted_certificate_gets_nothing(configure: Configure, tmp_path: Any) -> None:
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


@pytest.mark.parametrize("first", [5.0, 60.0, 600.0])
def test_a_first_probe_asks_an_endpoint_that_has_failed_however_long_mails_wait(
    configure: Configure, endpoint: TokenEndpoint, settings: Any, first: float
) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "RETRY_FIRST": 900.0, "BREAKER_PROBE_FIRST": first}
    configure()
    endpoint.instead = _html
    found = send(2)
    assert len(endpoint.requests) == 1
    endpoint.instead = None
    # The probe is due.
    tripped, token = CircuitBreaker.objects.get(), OAuthToken.objects.get()
    assert token.failed_at is not None
    OAuthToken.objects.update(failed_at=token.failed_at - (tripped.probe_at - ago(0)))
    CircuitBreaker.objects.update(probe_at=ago(0))
    Delivery.objects.filter(pk=found[0].pk).update(due_at=ago(1), next_at=ago(1))
    attempt(found[0].pk)
    assert Delivery.objects.get(pk=found[0].pk).status == "accepted"
    assert len(endpoint.requests) == 2


# -- concurrent requests ----------------------------------------------------------------------------------------------


def test_of_many_at_once_one_fetches(configure: Configure, endpoint: TokenEndpoint) -> None:
    configure()
    sources = [tokens() for _ in range(8)]
    assert in_threads(*(one.current for one in sources)) == endpoint.given * 8
    assert len(endpoint.requests) == 1


def test_a_token_that_came_while_one_looked_is_used(
    configure: Configure, endpoint: TokenEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first read finds no token. Another process fetches one before this one gets the lease."""
    configure()
    late = tokens()
    looks = iter([None])
    first = tokens().current()
    read = StoredTokens._read
    monkeypatch.setattr(StoredTokens, "_read", lambda self: next(looks, read(self)))
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


def test_sending_does_not_wait_for_a_new_token_while_the_old_one_is_valid(
    configure: Configure, endpoint: TokenEndpoint
) -> None:
    configure()
    old = tokens().current()
    nearly_over()
    asked, may_answer = threading.Event(), threading.Event()

    def slowly() -> Response:
        asked.set()
        may_answer.wait(PATIENCE)
        return _html()

    endpoint.instead = slowly
    refresher = threading.Thread(target=lambda: (tokens().current(), connection.close()))
    refresher.start()
    try:
        assert asked.wait(PATIENCE)
        assert tokens().current() == old
    finally:
        may_answer.set()
        refresher.join(PATIENCE)
    assert len(endpoint.requests) == 2


def test_a_process_that_dies_while_fetching_delays_others_at_most_its_lease(
    configure: Configure, endpoint: TokenEndpoint
) -> None:
    config = configure()
    digest = token_digest(config)
    OAuthToken.objects.create(config=config, settings=digest, lease="dead", lease_until=ago(1))
    assert tokens().current() == endpoint.given[0]


# -- refresh tokens ---------------------------------------------------------------------------------------------------


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
    assert "the refresh token has expired or was revoked (invalid_grant" in send()[0].reason


def test_other_settings_have_another_token(configure: Configure, endpoint: TokenEndpoint) -> None:
    config = configure()
    first = tokens().current()
    config.name = "Renamed"
    config.save()
    assert tokens().current() == first
    config.oauth_scope = ""
    config.save()
    assert tokens().current() != first


# -- in a caller's transaction ----------------------------------------------------------------------------------------


def test_a_token_that_is_fetched_in_a_transaction_is_kept_after_it(
    configure: Configure, endpoint: TokenEndpoint
) -> None:
    """Other processes need not wait for the end of that transaction, which may be long."""
    configure()
    message = EmailMessage("S", "B", "noreply@example.com", ["kim@example.com"])
    with transaction.atomic():
        direct.send_directly(message)
        assert not OAuthToken.objects.exists()
    assert tokens().current() == endpoint.given[0]
    assert len(endpoint.requests) == 1
