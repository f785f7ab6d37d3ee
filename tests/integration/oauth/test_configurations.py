"""Configurations that log in by OAuth 2.0: their stored form and their display in the admin."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.exceptions import ValidationError
from django.urls import reverse

from email_integration.admin.connection_tests import run_stored, run_typed
from email_integration.dashboard import live_status
from email_integration.diagnosis import configuration
from email_integration.models import CircuitBreaker, Delivery, OAuthToken, SMTPConfig, rotation
from email_integration.smtp import NoToken
from email_integration.smtpd import SMTPServer
from tests.acceptance.test_password_nowhere import everything_stored
from tests.deliveries import ago, attempt
from tests.integration.admin_site import form_of, logged_in, said, url
from tests.token_endpoint import REFRESH, SECRET, TokenEndpoint, error

from .asking import NEVER_SHOWN, Configure, all_accepted, by_certificate, oauth_fields, relay, send, tokens

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("task_queue", "fresh_process")]


# -- storage ----------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "[::1]"])
def test_this_machine_may_have_a_token_in_the_clear(configure: Configure, host: str) -> None:
    """The token does not cross a network. Brackets in the address do not make it a different address."""
    config = configure(is_active=False)
    for name, value in {
        "host": host,
        "use_tls": False,
        "oauth_client_secret": "s3cret",
        "pk": None,
        "name": "Other",
    }.items():
        setattr(config, name, value)
    config.full_clean()


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


# -- the admin --------------------------------------------------------------------------------------------------------


def test_a_test_fetches_a_token_and_shows_it_as_a_stage(configure: Configure, endpoint: TokenEndpoint) -> None:
    config = configure()
    for number in (1, 2):
        test = run_stored(config, user=None)
        assert test.report is not None
        assert test.report.ok
        assert test.report.stages[0].kind == "token"
        assert len(endpoint.requests) == number
    endpoint.instead = lambda: error("invalid_scope")
    test = run_stored(config, user=None)
    assert test.report is not None
    assert (test.report.ok, test.report.connected) == (False, False)
    assert "invalid_scope" in test.report.stages[0].detail
    assert test.advice is not None
    assert test.advice.key == "token-endpoint"


def test_a_test_of_unsaved_values_does_not_change_the_stored_token(
    configure: Configure, endpoint: TokenEndpoint
) -> None:
    config = configure()
    token = tokens().current()
    typed = form_of(config, **oauth_fields(config, oauth_scope="", oauth_client_secret=SECRET))
    test = run_typed(config, typed, user=None)
    assert test.report is not None
    assert test.report.ok
    assert len(endpoint.requests) == 2
    assert OAuthToken.objects.get().access_token == token


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


def test_values_without_a_login_method_leave_it_unchanged(configure: Configure) -> None:
    """A program that sends the form may not know the field yet."""
    config = configure()
    fields = {**oauth_fields(config), "authentication": None, "oauth_grant": None, "timeout": 7}
    logged_in(superuser=True).post(url("change", config.pk), form_of(config, **fields))
    stored = SMTPConfig.objects.get()
    assert (stored.timeout, stored.authentication, stored.oauth_client_secret) == (7, "oauth", SECRET)


def test_the_history_says_that_a_secret_changed_and_not_what_it_is(configure: Configure) -> None:
    config = configure()
    config.oauth_client_secret = "zY7~another"
    config.save()
    assert [entry.password_changed for entry in config.history.all()[:2]] == [True, True]
    config.timeout = 6
    config.save()
    assert config.history.first().password_changed is False
    assert NEVER_SHOWN not in everything_stored()


def test_the_diagnosis_reports_the_token(configure: Configure, endpoint: TokenEndpoint) -> None:
    configure()
    assert configuration.diagnose_passwords()[-1].text == "No OAuth token has been fetched yet"
    tokens().current()
    said, _, until = configuration.diagnose_passwords()[-1].text.rpartition("until ")
    assert said == "The OAuth token is valid "
    left = dt.datetime.strptime(until.replace("UTC", "+0000"), "%Y-%m-%d %H:%M %z") - dt.datetime.now(dt.UTC)
    assert dt.timedelta() < left < dt.timedelta(hours=2)
    endpoint.instead = lambda: error("invalid_client", 401)
    with pytest.raises(NoToken):
        tokens().another()
    found = configuration.diagnose_passwords()[-1]
    assert found.text.startswith("No OAuth token could be fetched: the token endpoint localhost refused")
    assert found.level == "warning"


def test_fixed_settings_let_through_what_waited_for_a_token(configure: Configure) -> None:
    config = configure(oauth_client_secret="wrong")
    waiting = send(3)
    assert CircuitBreaker.objects.count() == 1
    config.oauth_client_secret = SECRET
    config.save()
    assert not CircuitBreaker.objects.exists()
    for one in waiting:
        attempt(one.pk)
    assert all_accepted(list(Delivery.objects.all()))


def test_the_dashboard_shows_the_token_that_mail_goes_by(
    configure: Configure, endpoint: TokenEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dashboard shows its expiry and the reason why no newer token exists, each only while it is current."""
    monkeypatch.setattr(live_status, "FOR_WORKERS", 0.02)  # there are no workers
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
