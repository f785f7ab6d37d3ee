"""Credentials for token requests other than a plain secret: private keys, and secrets that are stored elsewhere or
expire soon.
"""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError

from email_integration import references
from email_integration.alerts import evaluate
from email_integration.checks.databases import check_rows
from email_integration.diagnosis import configuration
from email_integration.diagnosis.findings import warning
from email_integration.models import CircuitBreaker, Grant, OAuthToken, SMTPConfig
from email_integration.sending.sessions import pool
from email_integration.smtp import NoToken
from email_integration.smtpd import SMTPServer
from email_integration.timezones import today
from tests.acceptance.test_password_nowhere import everything_stored
from tests.deliveries import ago
from tests.integration.admin_site import form_of, logged_in, said, url
from tests.private_keys import certificate, key, pem, pem_of
from tests.token_endpoint import ACCOUNT, REFRESH, SECRET, TokenEndpoint, error

from .asking import (
    NEVER_SHOWN,
    PROVEN,
    Configure,
    Proven,
    all_accepted,
    by_certificate,
    by_service_account,
    oauth_fields,
    send,
    tokens,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("task_queue", "fresh_process")]


@PROVEN
def test_a_signature_takes_the_place_of_a_secret(
    configure: Configure, server: SMTPServer, endpoint: TokenEndpoint, proven: Proven
) -> None:
    """The endpoint checks signature, issuer, audience and lifetime, and that no assertion is used twice."""
    configure(**proven(endpoint))
    assert all_accepted(send(2))
    tokens().another()
    assert (len(server.messages), len(endpoint.given), len(endpoint.requests)) == (2, 2, 2)
    assert not any("client_secret" in form for form in endpoint.requests)


def test_a_key_in_pem_asks_in_the_name_of_the_client_id(configure: Configure, endpoint: TokenEndpoint) -> None:
    configure(**by_service_account(endpoint, oauth_private_key=pem(key()), oauth_scope=""))
    assert tokens().current() == endpoint.given[0]


REFUSED_KEYS: list[tuple[Proven, str]] = [
    (by_certificate, "the certificate is not registered with it or has expired (invalid_client"),
    (by_service_account, "it does not know the key or the mailbox, or the key was revoked (invalid_grant"),
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
    shown = everything_stored() + caplog.text
    assert not [line for line in config.oauth_private_key.splitlines() if len(line) > 60 and line in shown]
    assert NEVER_SHOWN not in shown


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
    """``tests/unit/test_private_key.py`` tests which keys are refused."""
    config = configure(oauth_client_secret="", oauth_private_key=pem(key()) + pem_of(certificate(key(), days=-1)))
    with pytest.raises(ValidationError) as caught:
        config.full_clean()
    assert caught.value.message_dict == {"oauth_private_key": ["The certificate has expired."]}
    assert send()[0].reason == "the private key cannot be used: The certificate has expired (auth)"
    assert endpoint.requests == []


def test_without_the_library_the_error_names_what_to_install(
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
    """The expiry date follows the certificate in use, even if a user entered another date."""
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


@pytest.mark.parametrize("entered", [None, dt.date(2031, 5, 1)], ids=["none entered", "one entered"])
def test_the_end_of_a_certificate_goes_with_it(
    configure: Configure, endpoint: TokenEndpoint, entered: dt.date | None
) -> None:
    """A client secret that replaces the certificate has its own expiry date, or no known one."""
    new = configure(**by_certificate(endpoint))
    new.full_clean()
    new.save()
    config = SMTPConfig.objects.get()
    assert config.oauth_secret_ends is not None
    config.oauth_client_secret = SECRET
    if entered:
        config.oauth_secret_ends = entered
    config.full_clean()
    config.save()
    stored = SMTPConfig.objects.get()
    assert (stored.oauth_client_secret, stored.oauth_private_key) == (SECRET, "")
    assert stored.oauth_secret_ends == entered


def test_page_checks_and_alerts_report_a_secret_that_ends_soon(
    configure: Configure, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ends = today() + dt.timedelta(days=10)
    config = configure(oauth_secret_ends=ends)
    page = url("change", config.pk)
    client = logged_in(superuser=True)
    warned = f"The client secret of Primary Mail Server expires on {ends}"
    assert configuration.diagnose_passwords()[-1] == warning("smtp.secret", warned, "Replace it in the admin.")
    assert "what it is fetched with ends on" in client.get(page).content.decode()
    assert (evaluate(), evaluate()) == (1, 1)
    assert caplog.text.count(warned) == 1
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SECRET_ENDS_WITHIN": 5}
    assert evaluate() == 0
    assert "Alert resolved: The client secret" in caplog.text
    assert configuration.diagnose_passwords()[-1].level != "warning"
    assert "what it is fetched with ends on" not in client.get(page).content.decode()
    entered = form_of(config, **oauth_fields(config), oauth_secret_ends=today() - dt.timedelta(days=1))
    assert "was changed successfully" in said(client.post(page, entered, follow=True))
    assert "expired on" in configuration.diagnose_passwords()[-1].text


# -- secrets stored elsewhere -----------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, settings: Any) -> Path:
    """A file that may hold a secret."""
    allowed = [f"file:{tmp_path}/*", "env:SMTP_*"]
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SECRET_REFERENCES": allowed}
    return tmp_path / "secret"


def test_a_client_secret_that_is_another_by_now_is_read_again(
    configure: Configure, server: SMTPServer, endpoint: TokenEndpoint, place: Path
) -> None:
    """The process knows the old secret and the endpoint refuses it. No mail waits."""
    place.write_text(f"{SECRET}\n")
    config = configure(oauth_client_secret=f"file:{place}")
    config.full_clean()
    first = send()
    endpoint.secret = "zY7~another"
    place.write_text("zY7~another\n")
    endpoint.revoke()
    pool.close()
    assert all_accepted([*first, *send()])
    assert [form["client_secret"] for form in endpoint.requests] == [SECRET, SECRET, "zY7~another"]
    assert not CircuitBreaker.objects.exists()
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
    endpoint.refresh_tokens = {"zY7~consented-anew"}
    with pytest.raises(NoToken):
        tokens().another()
    place.write_text("zY7~consented-anew")
    OAuthToken.objects.update(failed_at=ago(61))
    assert tokens().another() == endpoint.given[2]


def test_a_secret_that_cannot_be_had_is_named_and_the_mail_waits(
    configure: Configure, endpoint: TokenEndpoint, place: Path
) -> None:
    config = configure(oauth_client_secret=f"file:{place}")
    with pytest.raises(ValidationError) as caught:
        SMTPConfig(**{name: getattr(config, name) for name in OF_ONE}, name="Other").full_clean()
    assert "does not exist or cannot be read" in caught.value.message_dict["oauth_client_secret"][0]
    found = send()[0]
    assert (found.status, found.waits_for_relay) == ("deferred", True)
    assert found.reason.startswith(f"the client secret cannot be read: The file {place} does not exist")
    assert endpoint.requests == []
    config.full_clean()  # an unusable stored value does not prevent other corrections
    config.is_active = False
    config.save()
    named = [one.text for one in configuration.diagnose_passwords()]
    assert any(text.startswith("The client secret of “Primary Mail Server”, which is not active") for text in named)
    page = logged_in(superuser=True).get(url("change", config.pk)).content.decode()
    assert "This is kept elsewhere (“file:”)" in page


#: The attributes of a configuration that logs in by a client secret.
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
