"""The newest refresh token survives.

No old one is sent again, because the provider would revoke all (RFC 9700 §4.14).
"""

# ruff: noqa: F811  # a fixture that is imported has the name of the argument

from __future__ import annotations

import contextlib
import ctypes
import datetime as dt
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from cryptography.fernet import Fernet
from django.core.mail import EmailMessage
from django.core.management import call_command
from django.db import OperationalError, connection, models, transaction

from config.local.processes import PATIENCE, wait_until
from email_integration.admin.connection_tests import run_stored, run_typed
from email_integration.exceptions import DeliveryDeferred
from email_integration.models import Grant, OAuthToken, RefreshFamily, SMTPConfig
from email_integration.routing import families, token_endpoint
from email_integration.sending import direct
from email_integration.sending.sessions import pool
from email_integration.smtp import NoToken
from email_integration.smtpd import Fault, SMTPServer
from tests.acceptance.test_password_nowhere import everything_stored
from tests.authorization_server import Asked
from tests.deliveries import ago, in_threads
from tests.integration.admin_site import form_of, logged_in, url
from tests.integration.oauth.asking import Configure, all_accepted, oauth_fields, relay, send, tokens
from tests.integration.oauth.conftest import _patient, configure, endpoint, server  # noqa: F401  # fixtures
from tests.token_endpoint import REFRESH, SCOPE, SECRET, TokenEndpoint, error

pytestmark = [
    pytest.mark.extra,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("task_queue", "fresh_process"),
]


@pytest.fixture
def used(configure: Configure, endpoint: TokenEndpoint) -> SMTPConfig:
    """A configuration whose first refresh token has been replaced by another."""
    endpoint.rotates = True
    config = configure(oauth_grant=Grant.REFRESH_TOKEN, oauth_refresh_token=REFRESH)
    tokens().current()
    assert REFRESH in endpoint.replaced
    return SMTPConfig.objects.get(pk=config.pk)


def goes_on(endpoint: TokenEndpoint) -> None:
    """Check that mail is sent, the next token can be fetched, and no old refresh token was ever sent."""
    pool.close()
    assert all_accepted(send())
    tokens().another()
    assert endpoint.reused == []
    shown = [form["refresh_token"] for form in endpoint.requests if "refresh_token" in form]
    assert len(shown) == len(set(shown))
    stored = everything_stored()
    assert [one for one in (*endpoint.refresh_tokens, *endpoint.replaced, *endpoint.given) if one in stored] == []


def typed(config: SMTPConfig, **changes: Any) -> dict[str, Any]:
    return form_of(config, **oauth_fields(config, **changes))


# -- changes by users -------------------------------------------------------------------------------------------------


def test_a_new_client_secret(used: SMTPConfig, endpoint: TokenEndpoint) -> None:
    endpoint.secret = "zY7~the-next-secret"
    answer = logged_in(superuser=True).post(
        url("change", used.pk), typed(used, oauth_client_secret="zY7~the-next-secret")
    )
    assert answer.status_code == 302
    goes_on(endpoint)


@pytest.mark.parametrize("changes", [{"oauth_scope": ""}, {"oauth_authorization_endpoint": "https://x.example/a"}])
def test_a_changed_field(used: SMTPConfig, endpoint: TokenEndpoint, changes: dict[str, Any]) -> None:
    """The field is changed, changed back and changed again."""
    client = logged_in(superuser=True)
    for fields in (changes, {"oauth_scope": SCOPE, "timeout": 6}, changes):
        assert client.post(url("change", used.pk), typed(used, **fields)).status_code == 302
        goes_on(endpoint)


def test_a_new_secret_key(used: SMTPConfig, endpoint: TokenEndpoint, settings: Any) -> None:
    settings.SECRET_KEY = "another one, of no less than fifty characters: 0123456789"
    goes_on(endpoint)


def test_new_password_keys(used: SMTPConfig, endpoint: TokenEndpoint, settings: Any) -> None:
    """The old keys are removed once all secrets are sealed with the new key."""
    old = settings.EMAIL_INTEGRATION["SMTP_PASSWORD_KEYS"]
    new = Fernet.generate_key().decode()
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SMTP_PASSWORD_KEYS": [new, *old]}
    call_command("rotate_smtp_passwords", verbosity=0)
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SMTP_PASSWORD_KEYS": [new]}
    settings.SECRET_KEY = "another one, of no less than fifty characters: 0123456789"
    goes_on(endpoint)


def test_a_lost_key_has_no_old_one_shown(used: SMTPConfig, endpoint: TokenEndpoint, settings: Any) -> None:
    """A user repairs the configuration by hand, with the noted first refresh token."""
    new = Fernet.generate_key().decode()
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SMTP_PASSWORD_KEYS": [new]}
    used.oauth_client_secret, used.oauth_refresh_token = "zY7~client-secret-q2X", REFRESH
    used.save()
    with pytest.raises(NoToken, match="SMTP_PASSWORD_KEYS"):
        tokens().another()
    assert endpoint.reused == []


def test_the_first_one_entered_again(used: SMTPConfig, endpoint: TokenEndpoint) -> None:
    """After a change of host the form asks for all secrets again, and the user enters the noted first token."""
    again = {"oauth_client_secret": "zY7~client-secret-q2X", "oauth_refresh_token": REFRESH, "host": "127.0.0.1"}
    assert logged_in(superuser=True).post(url("change", used.pk), typed(used, **again)).status_code == 302
    stored = SMTPConfig.objects.get()
    assert (stored.host, stored.oauth_refresh_token) == ("127.0.0.1", REFRESH)
    tokens().another()
    assert endpoint.reused == []


def test_another_way_to_log_in_and_back(used: SMTPConfig, endpoint: TokenEndpoint) -> None:
    used.authentication, used.password = "password", "s3cret"
    kept = (used.oauth_endpoint, used.oauth_client_id, used.oauth_client_secret, used.oauth_scope)
    used.save()
    used.authentication, used.oauth_grant, used.oauth_refresh_token = "oauth", Grant.REFRESH_TOKEN, REFRESH
    used.oauth_endpoint, used.oauth_client_id, used.oauth_client_secret, used.oauth_scope = kept
    used.save()
    goes_on(endpoint)


def test_deleted_and_made_again(used: SMTPConfig, endpoint: TokenEndpoint, configure: Configure) -> None:
    used.delete()
    configure(oauth_grant=Grant.REFRESH_TOKEN, oauth_refresh_token=REFRESH)
    goes_on(endpoint)


# -- connection tests -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"oauth_scope": ""}, {"timeout": 7}])
def test_tests_with_an_unsaved_change(used: SMTPConfig, endpoint: TokenEndpoint, changes: dict[str, Any]) -> None:
    """The test can run any number of times, and mail is sent between the runs."""
    client = logged_in(superuser=True)
    for _ in range(2):
        page = client.post(url("test", used.pk), typed(used, **changes), headers={"X-Requested-With": "fetch"})
        assert "The connection works" in page.content.decode()
        goes_on(endpoint)


def test_a_test_before_anything_was_fetched(configure: Configure, endpoint: TokenEndpoint) -> None:
    """The token that a test receives is stored, even if the test's settings are not."""
    endpoint.rotates = True
    config = configure(oauth_grant=Grant.REFRESH_TOKEN, oauth_refresh_token=REFRESH)
    for data in (typed(config, oauth_scope=""), typed(config)):
        test = run_typed(config, data, user=None)
        assert test.report is not None
        assert test.report.ok
    assert run_stored(config, user=None).report is not None
    goes_on(endpoint)


def test_a_token_that_is_tested_and_then_saved_works(
    endpoint: TokenEndpoint,
    server: SMTPServer,
    configure: Configure,
) -> None:
    """The token is typed once, tested, which replaces it, and saved as typed."""
    endpoint.rotates = True
    config = configure(oauth_grant=Grant.REFRESH_TOKEN, oauth_refresh_token="zY7~withdrawn")
    client = logged_in(superuser=True)
    data = typed(config, oauth_refresh_token=REFRESH)
    page = client.post(url("test", config.pk), data, headers={"X-Requested-With": "fetch"})
    assert "The connection works" in page.content.decode()
    assert client.post(url("change", config.pk), data).status_code == 302
    goes_on(endpoint)


def test_a_new_configuration_tested_and_then_saved(
    endpoint: TokenEndpoint,
    server: SMTPServer,
    configure: Configure,
) -> None:
    endpoint.rotates = True
    config = configure(oauth_grant=Grant.REFRESH_TOKEN, oauth_refresh_token=REFRESH)
    data = {**typed(config, oauth_refresh_token=REFRESH, oauth_client_secret="zY7~client-secret-q2X"), "name": "New"}
    config.delete()
    client = logged_in(superuser=True)
    for _ in range(2):
        page = client.post(url("test_new"), data, headers={"X-Requested-With": "fetch"})
        assert "The connection works" in page.content.decode()
    assert client.post(url("add"), data).status_code == 302
    goes_on(endpoint)


def test_a_test_that_fails_at_the_server(used: SMTPConfig, endpoint: TokenEndpoint, server: SMTPServer) -> None:
    """The token arrives before the failure and is not lost."""
    server.inject(Fault(verb="AUTH", reply="535 5.7.8 no", times=None))
    test = run_typed(used, typed(used, oauth_scope=""), user=None)
    assert test.report is not None
    assert not test.report.ok
    server.clear_faults()
    goes_on(endpoint)


# -- configurations that share a refresh token ------------------------------------------------------------------------


def test_a_duplicate_goes_by_the_same(used: SMTPConfig, endpoint: TokenEndpoint) -> None:
    """Both serve the same mailbox: whichever configuration fetches a token, both have the newest."""
    client = logged_in(superuser=True)
    client.post(url("changelist"), {"action": "duplicate", "_selected_action": used.pk})
    copy = SMTPConfig.objects.exclude(pk=used.pk).get()
    for _ in range(2):
        for one in (copy, used):
            test = run_stored(SMTPConfig.objects.get(pk=one.pk), user=None)
            assert test.report is not None
            assert test.report.ok
            goes_on(endpoint)
    SMTPConfig.objects.activate(copy)
    goes_on(endpoint)


def test_two_at_once(used: SMTPConfig, endpoint: TokenEndpoint) -> None:
    """Test the original and its duplicate, stored and with unsaved changes, all at once."""
    client = logged_in(superuser=True)
    client.post(url("changelist"), {"action": "duplicate", "_selected_action": used.pk})
    both = list(SMTPConfig.objects.all())
    works = [lambda one=one: run_stored(one, user=None) for one in both]
    works += [lambda one=one: run_typed(one, typed(one, oauth_scope=""), user=None) for one in both]
    reports = [test.report.ok if not isinstance(test, Exception) else test for test in in_threads(*works)]
    assert reports == [True] * 4
    goes_on(endpoint)


def test_the_same_one_entered_twice_and_used_for_the_first_time_at_once(
    configure: Configure,
    endpoint: TokenEndpoint,
) -> None:
    endpoint.rotates = True
    given = {"oauth_grant": Grant.REFRESH_TOKEN, "oauth_refresh_token": REFRESH}
    both = [configure(**given), configure(**given, name="Second", is_active=False)]
    tests = in_threads(*(lambda one=one: run_stored(one, user=None) for one in both))
    assert [test.report.ok for test in tests] == [True, True]
    goes_on(endpoint)


# -- dumps, races, transactions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["email_integration.smtpconfig", "email_integration"])
def test_a_dump_of_before_is_loaded(used: SMTPConfig, endpoint: TokenEndpoint, tmp_path: Path, label: str) -> None:
    file = tmp_path / "dump.json"
    call_command("dumpdata", label, output=file, verbosity=0)
    assert not any(one in file.read_text() for one in (*endpoint.refresh_tokens, *endpoint.replaced))
    tokens().another()
    call_command("loaddata", file, verbosity=0)
    goes_on(endpoint)


def test_a_dump_is_loaded_into_an_empty_database(used: SMTPConfig, endpoint: TokenEndpoint, tmp_path: Path) -> None:
    file = tmp_path / "dump.json"
    call_command("dumpdata", "email_integration", output=file, verbosity=0)
    SMTPConfig.objects.all().delete()
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            if table.startswith("email_integration_") and ("family" in table or "oauth" in table):
                cursor.execute(f"DELETE FROM {table}")
    call_command("loaddata", file, verbosity=0)
    goes_on(endpoint)


def _save_scope(pk: int) -> None:
    SMTPConfig.objects.filter(pk=pk).update(oauth_scope="")


def _save_secret(pk: int) -> None:
    config = SMTPConfig.objects.get(pk=pk)
    config.oauth_client_secret = "zY7~client-secret-q2X"
    config.name = "Renamed"
    config.save()


def _delete_tokens(pk: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM email_integration_oauthtoken")


@pytest.mark.parametrize("meanwhile", [_save_scope, _save_secret, _delete_tokens])
def test_a_race_that_is_lost(
    used: SMTPConfig,
    endpoint: TokenEndpoint,
    meanwhile: Callable[[int], None],
) -> None:
    """The settings have changed by the time the answer arrives, and its token is not lost."""

    def answer() -> Any:
        endpoint.instead = None
        meanwhile(used.pk)
        connection.close()
        return endpoint.create_token_response(Asked("POST", endpoint.url, endpoint.requests[-1]))

    endpoint.instead = answer
    tokens().another()
    goes_on(endpoint)


def test_an_answer_that_came_after_a_newer_one(used: SMTPConfig, endpoint: TokenEndpoint) -> None:
    """A process that was stopped for longer than its lease does not overwrite a newer token."""
    row = RefreshFamily.objects.get()
    long_ago = row.asked_at - dt.timedelta(seconds=1)
    families.keep(row.pk, "zY7~stale", provider=row.provider, asked_at=long_ago)
    goes_on(endpoint)


@pytest.mark.parametrize("writes", [False, True])
def test_a_transaction_that_is_rolled_back(used: SMTPConfig, endpoint: TokenEndpoint, writes: bool) -> None:
    """The endpoint has replaced the token, even if our transaction is rolled back.

    Where the database allows only one writer, no token is sent if its successor could not be stored.
    """
    _end_access_token()
    pool.close()
    message = EmailMessage("S", "B", "noreply@example.com", ["kim@example.com"])
    before = len(endpoint.requests)
    with transaction.atomic():
        if writes:
            models.QuerySet(SMTPConfig).update(timeout=9)
        if connection.vendor == "sqlite":
            with pytest.raises(DeliveryDeferred, match="cannot be stored"):
                direct.send_directly(message)
        else:
            direct.send_directly(message)
        transaction.set_rollback(True)
    assert len(endpoint.requests) == before + (connection.vendor != "sqlite")
    goes_on(endpoint)


def test_a_database_that_is_away_when_the_answer_comes(
    used: SMTPConfig, endpoint: TokenEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new token is stored once the database is back, before any other token is sent."""
    real, failing = families._write, [True]

    def write(*given: Any) -> None:
        if failing:
            raise OperationalError
        real(*given)

    monkeypatch.setattr(families, "_write", write)
    tokens().another()
    before = len(endpoint.requests)
    with pytest.raises(NoToken, match="cannot be stored"):
        tokens().another()
    assert len(endpoint.requests) == before
    failing.clear()
    OAuthToken.objects.update(failed_at=None)
    goes_on(endpoint)


def test_a_clock_that_was_ahead(used: SMTPConfig, endpoint: TokenEndpoint) -> None:
    """The clock was ahead on the host that fetched the previous token."""
    RefreshFamily.objects.update(asked_at=ago(-3600))
    for _ in range(2):
        goes_on(endpoint)


def _end_access_token() -> None:
    OAuthToken.objects.update(expires_at=ago(1))


# -- tokens outside the app, named by a reference ---------------------------------------------------------------------


def test_an_external_token_stays_unchanged(
    configure: Configure,
    endpoint: TokenEndpoint,
    tmp_path: Path,
    settings: Any,
) -> None:
    """The external token stays unchanged; the app stores the newest.

    A new external token replaces it, the same does not.
    """
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SECRET_REFERENCES": [f"file:{tmp_path}/*"]}
    endpoint.rotates = True
    place = tmp_path / "token"
    place.write_text(REFRESH)
    configure(oauth_grant=Grant.REFRESH_TOKEN, oauth_refresh_token=f"file:{place}")
    tokens().current()
    settings.SECRET_KEY = "another one, of no less than fifty characters: 0123456789"
    goes_on(endpoint)
    endpoint.refresh_tokens.clear()
    with pytest.raises(NoToken):
        tokens().another()
    assert endpoint.reused == []
    place.write_text("zY7~consented-anew")
    endpoint.refresh_tokens.add("zY7~consented-anew")
    tokens().another("")
    goes_on(endpoint)


# -- no new attacks ---------------------------------------------------------------------------------------------------


def test_an_old_one_that_is_noted_down_gets_no_newer_one(used: SMTPConfig, endpoint: TokenEndpoint) -> None:
    """The old token is sent to the provider that issued it. To another endpoint not even the old token is sent."""
    with TokenEndpoint(None) as elsewhere:
        data = typed(used, oauth_refresh_token=REFRESH, oauth_client_secret="x", oauth_endpoint=elsewhere.url)
        test = run_typed(used, data, user=None)
        assert test.report is not None
        assert "consent" in test.report.stages[0].detail
        assert elsewhere.requests == []
    goes_on(endpoint)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://a.example/token", "https://A.example:443/tenant/token?x=1", True),
        ("http://127.0.0.1/token", "http://127.0.0.1:80/", True),
        ("https://a.example/token", "https://user@a.example/token", True),
        ("https://a.example/token", "https://a.example:444/token", False),
        ("https://a.example/token", "https://b.example/token", False),
        ("https://a.example/token", "https://a.example@b.example/token", False),
        ("https://a.example/token", "https://a.example:x/token", False),
    ],
)
def test_an_endpoint_is_the_same_by_its_host_and_port(one: str, other: str, same: bool) -> None:
    assert (families._provider(one) == families._provider(other)) == same


def test_a_token_of_a_new_consent_replaces_all_others(used: SMTPConfig, endpoint: TokenEndpoint) -> None:
    endpoint.refresh_tokens = {"zY7~consented-anew"}
    used.oauth_refresh_token = "zY7~consented-anew"
    used.save()
    goes_on(endpoint)
    assert endpoint.requests[1]["refresh_token"] == "zY7~consented-anew"


def test_a_token_that_never_worked_is_not_stored(configure: Configure, endpoint: TokenEndpoint) -> None:
    """It may be a password that was typed into the wrong field."""
    before = everything_stored().count("family")
    configure(oauth_grant=Grant.REFRESH_TOKEN, oauth_refresh_token="a word")
    endpoint.instead = lambda: error("invalid_grant")
    with pytest.raises(NoToken):
        tokens().current()
    assert everything_stored().count("family") == before


def test_a_provider_that_replaces_none(configure: Configure, endpoint: TokenEndpoint) -> None:
    configure(oauth_grant=Grant.REFRESH_TOKEN, oauth_refresh_token=REFRESH)
    for _ in range(3):
        tokens().another()
    assert [form["refresh_token"] for form in endpoint.requests] == [REFRESH] * 3
    assert relay().tokens is not None


# -- wrong or late answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"token_type": "mac"},
        {"access_token": "two words"},
        {"access_token": ""},
        {"access_token": None},
        {"expires_in": "soon"},
        {"status": 201},
        {"status": 400, "error": "temporarily_unavailable"},
    ],
    ids=lambda wrong: "-".join(wrong),
)
def test_an_answer_whose_access_token_is_of_no_use(
    used: SMTPConfig, endpoint: TokenEndpoint, wrong: dict[str, Any]
) -> None:
    """The refresh token in the answer is still the newest."""
    given = dict(wrong)
    status = given.pop("status", 200)

    def answer() -> Any:
        endpoint.instead = None
        _, headers, body = endpoint.create_token_response(Asked("POST", endpoint.url, endpoint.requests[-1]))
        return status, headers, json.dumps({**json.loads(body), **given}).encode()

    endpoint.instead = answer
    with contextlib.suppress(NoToken):
        tokens().another()
    OAuthToken.objects.update(failed_at=None)
    goes_on(endpoint)


def test_an_answer_that_came_late(used: SMTPConfig, endpoint: TokenEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mail does not wait for the answer. Its token is stored on arrival, and no token is sent before that."""
    has_given_up = threading.Event()

    def answer() -> Any:
        endpoint.instead = None
        has_given_up.wait(PATIENCE)
        return endpoint.create_token_response(Asked("POST", endpoint.url, endpoint.requests[-1]))

    endpoint.instead = answer
    with monkeypatch.context() as patched:
        patched.setattr(token_endpoint, "PATIENCE", 0.2)
        with pytest.raises(NoToken, match="in time"):
            tokens().another()
    has_given_up.set()
    OAuthToken.objects.update(failed_at=None)
    goes_on(endpoint)


def test_a_task_whose_time_is_over(used: SMTPConfig, endpoint: TokenEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery raises its error anywhere in the task, possibly after the answer arrives and before it is stored."""
    real = families.keep

    def keep(*given: Any, **named: Any) -> None:
        main = threading.main_thread().ident
        assert main is not None
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(main), ctypes.py_object(SoftTimeLimitExceeded))
        if threading.get_ident() == main:
            for _ in range(1000):
                pass
        real(*given, **named)

    monkeypatch.setattr(families, "keep", keep)
    with pytest.raises(SoftTimeLimitExceeded):
        tokens().another()
    monkeypatch.undo()
    goes_on(endpoint)


def test_a_family_that_was_deleted_meanwhile(used: SMTPConfig, endpoint: TokenEndpoint) -> None:
    """A user empties the table; the token that arrives is stored."""

    def answer() -> Any:
        endpoint.instead = None
        RefreshFamily.objects.all().delete()
        connection.close()
        return endpoint.create_token_response(Asked("POST", endpoint.url, endpoint.requests[-1]))

    endpoint.instead = answer
    tokens().another()
    goes_on(endpoint)


def test_another_process_after_a_database_that_was_away(
    used: SMTPConfig, endpoint: TokenEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token kept in memory is written as soon as possible, even if this process fetches no further token."""
    real, times = families._write, iter(range(3))

    def write(*given: Any) -> None:
        if next(times, None) is not None:
            raise OperationalError
        real(*given)

    monkeypatch.setattr(families, "_write", write)
    tokens().another()
    wait_until(lambda: not families._unwritten, what="the token stored")
    goes_on(endpoint)


def test_none_is_shown_where_no_key_could_seal_the_next(
    used: SMTPConfig, endpoint: TokenEndpoint, settings: Any
) -> None:
    """A token that other software stored in plain text can be read without a key."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE email_integration_smtpconfig SET oauth_refresh_token = %s, oauth_client_secret = %s",
                       ["zY7~in-plain-text", SECRET])  # fmt: skip
    endpoint.refresh_tokens.add("zY7~in-plain-text")
    before = len(endpoint.requests)
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SMTP_PASSWORD_KEYS": []}
    with pytest.raises(NoToken, match="cannot be stored"):
        tokens().another()
    assert len(endpoint.requests) == before
