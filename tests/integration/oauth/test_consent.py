"""The consent of a mailbox owner: the request, the redirect back, and every invalid answer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django.test import Client

from email_integration.admin.connection_tests import run_stored
from email_integration.models import SMTPConfig
from email_integration.routing import consent
from tests.acceptance.test_password_nowhere import everything_stored
from tests.integration.admin_site import config, list_of, logged_in, said, url
from tests.token_endpoint import CLIENT, SCOPE, SECRET, TokenEndpoint, error
from tests.token_endpoint import said as answered

from .asking import NEVER_SHOWN

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("task_queue", "fresh_process")]

GOOGLE = "https://oauth2.googleapis.com/token"
MICROSOFT = "https://login.microsoftonline.com/contoso/oauth2/v2.0"


@pytest.fixture
def stored(endpoint: TokenEndpoint) -> SMTPConfig:
    """A stored configuration that lacks only the refresh token."""
    return without_token(endpoint)


def without_token(endpoint: TokenEndpoint, name: str = "Primary", **changes: Any) -> SMTPConfig:
    made = config(
        name,
        **{
            "authentication": "oauth",
            "oauth_grant": "refresh_token",
            "oauth_endpoint": endpoint.url,
            "oauth_authorization_endpoint": endpoint.authorization_url,
            "oauth_client_id": CLIENT,
            "oauth_client_secret": SECRET,
            "oauth_scope": SCOPE,
            **changes,
        },
    )
    endpoint.authorization.redirect_uris.add(f"http://testserver{url('consent_back', made.pk)}")
    return made


def asked(client: Client, made: SMTPConfig) -> dict[str, str]:
    """Start the consent and return the query parameters for the provider."""
    begun = client.get(url("consent_begin", made.pk))
    assert begun.status_code == 302
    return {name: values[0] for name, values in parse_qs(urlsplit(begun.headers["Location"]).query).items()}


def decide(endpoint: TokenEndpoint, question: dict[str, str], decision: str = "Allow") -> str:
    """Submit the owner's decision and return the address that the provider redirects to."""
    status, headers, _ = endpoint.authorization.answer("POST", {**question, "decision": decision})
    assert status == 302
    return headers["Location"]


def refresh_token(made: SMTPConfig) -> str:
    return SMTPConfig.objects.get(pk=made.pk).oauth_refresh_token


def test_the_owner_consents_and_the_refresh_token_is_there(
    stored: SMTPConfig, endpoint: TokenEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    """The refresh token is sealed. The history names the user, the configuration counts as changed, and no page or log
    shows the token.
    """
    caplog.set_level(logging.DEBUG)
    client = logged_in(superuser=True)
    page = client.get(url("change", stored.pk)).content.decode()
    assert url("consent", stored.pk) in page
    assert (
        f"http://testserver{url('consent_back', stored.pk)}" in client.get(url("consent", stored.pk)).content.decode()
    )
    question = asked(client, stored)
    assert (question["client_id"], question["scope"]) == (CLIENT, SCOPE)
    back = client.get(decide(endpoint, question))
    assert (back.status_code, back.headers["Location"]) == (302, url("change", stored.pk))
    after = client.get(back.headers["Location"])
    assert "has its refresh token now" in said(after)

    (request,) = endpoint.requests
    assert request["client_secret"] == SECRET
    assert request["redirect_uri"] == question["redirect_uri"]
    assert refresh_token(stored) in endpoint.refresh_tokens
    history = client.get(url("history", stored.pk)).content.decode()
    assert "<strong>Refresh token:</strong> changed" in history
    assert "consent of the mailbox" in history
    entry = stored.history.filter(event="changed").get()
    assert (entry.history_user.username, entry.password_changed) == ("kim", True)
    assert SMTPConfig.objects.get().version != stored.version
    pages = page + after.content.decode() + history
    for secret in (NEVER_SHOWN, request["code_verifier"]):
        assert secret not in everything_stored() + pages
        assert secret not in caplog.text.replace(request["code"], "")  # the test client itself logs its address


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"state": ""}, "belongs to no consent"),
        ({"state": "foreign"}, "belongs to no consent"),
        ({"state": "é"}, "belongs to no consent"),
        ({"iss": "https://login.example.com"}, "from another provider"),
        ({"iss": "nonsense"}, "from another provider"),
        ({"code": ""}, "for no reason that is known here"),
        ({"code": "", "error": "access_denied"}, "did not consent"),
        ({"code": "", "error": "server_error"}, "Something is wrong at the provider"),
        ({"code": "", "error": "<b>zY7~", "error_description": "zY7~"}, "for no reason that is known here"),
        ({"code": "zY7~guessed"}, "the code has expired, or is not for this redirect URI (invalid_grant"),
    ],
)
def test_another_answer_is_shown_in_our_words_and_changes_nothing(
    stored: SMTPConfig, endpoint: TokenEndpoint, answer: dict[str, str], words: str
) -> None:
    """A wrong answer also ends the consent request: the right answer is refused afterwards."""
    client = logged_in(superuser=True)
    right = decide(endpoint, asked(client, stored))
    given = {name: values[0] for name, values in parse_qs(urlsplit(right).query).items()}
    wrong = f"{right.partition('?')[0]}?{urlencode({**given, **answer})}"
    page = client.get(wrong, follow=True)
    assert page.redirect_chain[-1][0] == url("consent", stored.pk)
    assert words in said(page)
    assert NEVER_SHOWN not in page.content.decode()
    assert "belongs to no consent" in said(client.get(right, follow=True))
    assert refresh_token(stored) == ""


def test_an_answer_from_whom_was_asked_may_say_so(stored: SMTPConfig, endpoint: TokenEndpoint) -> None:
    endpoint.authorization.adds = {"iss": endpoint.authorization_url.removesuffix("/authorize")}
    client = logged_in(superuser=True)
    client.get(decide(endpoint, asked(client, stored)))
    assert refresh_token(stored)


def test_an_answer_counts_once(stored: SMTPConfig, endpoint: TokenEndpoint) -> None:
    client = logged_in(superuser=True)
    answer = decide(endpoint, asked(client, stored))
    client.get(answer)
    first = refresh_token(stored)
    assert first
    assert "belongs to no consent" in said(client.get(answer, follow=True))
    assert (refresh_token(stored), len(endpoint.requests)) == (first, 1)


def test_an_answer_counts_in_the_session_that_it_was_begun_in(stored: SMTPConfig, endpoint: TokenEndpoint) -> None:
    """The session of another user is refused, even if that user has begun a consent too."""
    answer = decide(endpoint, asked(logged_in(superuser=True), stored))
    other = logged_in(superuser=True, name="lee")
    asked(other, stored)
    assert "belongs to no consent" in said(other.get(answer, follow=True))
    assert (refresh_token(stored), endpoint.requests) == ("", [])


def test_an_answer_counts_for_the_configuration_that_it_was_begun_for(
    stored: SMTPConfig, endpoint: TokenEndpoint
) -> None:
    """The operator of one provider cannot use an answer from another provider."""
    second = without_token(endpoint, "Second")
    client = logged_in(superuser=True)
    answer = decide(endpoint, asked(client, stored))
    elsewhere = answer.replace(url("consent_back", stored.pk), url("consent_back", second.pk))
    assert "belongs to no consent" in said(client.get(elsewhere, follow=True))
    assert (refresh_token(stored), refresh_token(second), endpoint.requests) == ("", "", [])


def test_an_answer_that_comes_late_is_not_taken(
    stored: SMTPConfig, endpoint: TokenEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = logged_in(superuser=True)
    answer = decide(endpoint, asked(client, stored))
    later = consent.time.time() + consent.PATIENCE + 1
    monkeypatch.setattr(consent.time, "time", lambda: later)
    assert "more than ten minutes" in said(client.get(answer, follow=True))
    assert (refresh_token(stored), endpoint.requests) == ("", [])


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_configuration_that_was_changed_meanwhile_keeps_nothing(
    stored: SMTPConfig, endpoint: TokenEndpoint, when: str
) -> None:
    """The code, the client secret and the new token would otherwise go to a server that the owner did
    not consent to.
    """
    client = logged_in(superuser=True)
    answer = decide(endpoint, asked(client, stored))

    def change() -> Any:
        SMTPConfig.objects.filter(pk=stored.pk).update(username="another")
        connection.close()  # the connection of the endpoint's thread
        return answered({"access_token": "zY7~x", "token_type": "Bearer", "refresh_token": "zY7~y"})

    if when == "before":
        change()
    else:
        endpoint.instead = change
    assert "was changed meanwhile" in said(client.get(answer, follow=True))
    assert (refresh_token(stored), len(endpoint.requests)) == ("", 0 if when == "before" else 1)


@pytest.mark.parametrize(
    ("instead", "words"),
    [
        (lambda: error("invalid_client", 401), "it does not know the client id, or the client secret is wrong"),
        (lambda: (302, {"Location": "https://elsewhere.example.com"}, b""), "answered with a redirect"),
        (lambda: (200, {"Content-Type": "text/html"}, b"<html>"), "without JSON"),
        (lambda: answered({"access_token": "zY7~x", "token_type": "Bearer"}), "gave no refresh token"),
    ],
)
def test_a_consent_that_no_token_comes_of_is_reported(
    stored: SMTPConfig, endpoint: TokenEndpoint, instead: Callable[[], Any], words: str
) -> None:
    endpoint.instead = instead
    client = logged_in(superuser=True)
    page = client.get(decide(endpoint, asked(client, stored)), follow=True)
    assert words in said(page)
    assert NEVER_SHOWN not in page.content.decode()
    assert refresh_token(stored) == ""


def test_secrets_that_are_kept_elsewhere_are_had_and_one_that_is_lost_there_is_asked_for_anew(
    stored: SMTPConfig, endpoint: TokenEndpoint, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SECRET_REFERENCES": ["env:SMTP_*"]}
    stored.oauth_client_secret, stored.oauth_refresh_token = "env:SMTP_SECRET", "env:SMTP_LOST"
    stored.save()
    client = logged_in(superuser=True)
    page = client.get(decide(endpoint, asked(client, stored)), follow=True)
    assert "the client secret cannot be read" in said(page)
    monkeypatch.setenv("SMTP_SECRET", SECRET)
    client.get(decide(endpoint, asked(client, stored)))
    assert refresh_token(stored) in endpoint.refresh_tokens


def test_it_is_for_those_who_may_change_the_configuration(stored: SMTPConfig, endpoint: TokenEndpoint) -> None:
    view, change = "view_smtpconfig", "change_smtpconfig"
    addresses = [url(page, stored.pk) for page in ("consent", "consent_begin", "consent_back")]
    for permissions in ((), (view,), (view, "activate_smtpconfig", "test_smtpconfig")):
        client = logged_in(*permissions, name=f"kim{len(permissions)}")
        assert [client.get(address).status_code for address in addresses] == [403] * 3
        assert addresses[0] not in client.get(url("change", stored.pk)).content.decode()
    assert [Client().get(address).status_code for address in addresses] == [302] * 3
    client = logged_in(view, change, name="lee")
    client.get(decide(endpoint, asked(client, stored)))
    assert refresh_token(stored)


@pytest.mark.parametrize("changes", [{"oauth_grant": "client_credentials"}, {"authentication": "password"}])
def test_another_login_method_has_no_consent_page(endpoint: TokenEndpoint, changes: dict[str, str]) -> None:
    other = without_token(endpoint, **changes)
    client = logged_in(superuser=True)
    for page in ("consent", "consent_begin", "consent_back"):
        assert client.get(url(page, other.pk)).status_code == 404
    assert client.get(url("consent", 0)).status_code == 404
    assert url("consent", other.pk) not in client.get(url("change", other.pk)).content.decode()


def test_a_provider_whose_page_is_not_known_has_to_be_entered(endpoint: TokenEndpoint) -> None:
    made = without_token(endpoint, oauth_authorization_endpoint="")
    client = logged_in(superuser=True)
    page = client.get(url("consent", made.pk)).content.decode()
    assert "enter the authorization endpoint" in page
    assert url("consent_begin", made.pk) not in page
    assert client.get(url("consent_begin", made.pk)).headers["Location"] == url("consent", made.pk)


@pytest.mark.parametrize(
    ("fields", "endpoint", "scope", "more"),
    [
        (
            {"oauth_endpoint": GOOGLE},
            "https://accounts.google.com/o/oauth2/v2/auth",
            "https://mail.google.com/",
            {"access_type": "offline", "prompt": "consent", "login_hint": "user"},
        ),
        (
            {"oauth_endpoint": f"{MICROSOFT}/token"},
            f"{MICROSOFT}/authorize",
            "https://outlook.office.com/SMTP.Send offline_access",
            {"login_hint": "user"},
        ),
        (
            {"oauth_endpoint": f"{MICROSOFT}/token", "oauth_scope": "offline_access SMTP.Send"},
            f"{MICROSOFT}/authorize",
            "offline_access SMTP.Send",
            {"login_hint": "user"},
        ),
        (
            {
                "oauth_endpoint": "https://a.example.com/t",
                "oauth_authorization_endpoint": "https://b.example.com/?x=1#y",
            },
            "https://b.example.com/",
            "",
            {"x": "1"},
        ),
    ],
)
def test_providers_are_asked_as_they_want_to_be(
    fields: dict[str, str], endpoint: str, scope: str, more: dict[str, str]
) -> None:
    made = SMTPConfig(username="user", **fields)
    question, pending = consent.question_of(made), consent.PendingConsent.begin(made)
    parts = urlsplit(consent.address(question, pending, client_id="x", redirect_uri="https://here.example.com/"))
    assert parts._replace(query="").geturl() == endpoint
    got = {name: values[0] for name, values in parse_qs(parts.query).items()}
    assert got.pop("scope", "") == scope
    ours = ("response_type", "client_id", "redirect_uri", "state", "code_challenge", "code_challenge_method")
    assert {name: value for name, value in got.items() if name not in ours} == more
    assert pending.verifier not in parts.query


def test_what_a_challenge_is() -> None:
    """Compute the example of RFC 7636, appendix B."""
    assert (
        consent._challenge("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
        == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    )


def test_without_a_refresh_token_it_is_saved_and_tested_and_not_activated(
    stored: SMTPConfig, endpoint: TokenEndpoint
) -> None:
    """Every way to activate it is refused, and the message says what to do first."""
    stored.full_clean()
    test = run_stored(stored, user=None)
    assert test.report is not None
    assert "ask the owner of the mailbox for consent" in test.report.stages[0].detail
    assert endpoint.requests == []
    client = logged_in(superuser=True)
    chosen = {"action": "activate", "_selected_action": stored.pk}
    assert "no refresh token yet" in said(client.post(url("changelist"), chosen, follow=True))
    assert "no refresh token yet" in client.post(url("changelist"), list_of(stored)).content.decode()
    for activate in (lambda: stored.save_active(True), lambda: SMTPConfig.objects.activate(stored)):
        with pytest.raises(ValidationError, match="no refresh token yet"):
            activate()
    assert not SMTPConfig.objects.filter(is_active=True).exists()
    client.get(decide(endpoint, asked(client, stored)))
    SMTPConfig.objects.activate(SMTPConfig.objects.get())
