"""Passwords that are stored elsewhere: a rotated one takes effect without a restart, and none is displayed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core import checks
from django.core.management import call_command
from django.db import transaction
from django.test import Client
from django.utils import timezone

from email_integration import routing
from email_integration.models import CircuitBreaker, Delivery, SMTPConfig
from email_integration.queue.sweeper import sweep
from email_integration.sending.sessions import pool
from email_integration.smtpd import SMTPServer
from tests.deliveries import RecordingTaskQueue, ago, attempt, due_again, send_due, submitted
from tests.mail_settings import name_server
from tests.relays import config_for

from .admin_site import config, form_of, logged_in, said, url
from .validating import validate

Serve = Callable[..., SMTPServer]
Use = Callable[..., None]

pytestmark = pytest.mark.django_db(transaction=True)

OLD, NEW = "0ld-s3cret", "n3w-s3cret"


@pytest.fixture
def use(settings: Any) -> Use:
    """Set keys of the setting. Cached secrets do not expire on their own."""

    def use(*allowed: str, **keys: Any) -> None:
        here = {"SECRET_REFERENCES": list(allowed), "SECRET_TTL": 3600.0, "SECRET_TIMEOUT": 60.0, **keys}
        settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, **here}

    return use


@pytest.fixture
def secret(use: Use, tmp_path: Path, task_queue: RecordingTaskQueue, settings: Any) -> Path:
    """The file that holds the password, with permission to refer to it."""
    settings.EMAIL_INTEGRATION = {
        **settings.EMAIL_INTEGRATION,
        "RETRY_FIRST": 5.0,
        "RETRY_MAX": 900.0,
        "BREAKER_PROBE_FIRST": 5.0,
        "BREAKER_PROBE_MAX": 900.0,
    }
    use(f"file:{tmp_path}/*")
    path = tmp_path / "smtp"
    path.write_text(f"{OLD}\n")
    return path


def serve_for(smtp_server: Serve, secret: Path, **changes: Any) -> SMTPServer:
    """Start a server with the old password, and activate a configuration that refers to the file."""
    server = smtp_server(password=OLD)
    config_for(server, password=f"file:{secret}", **changes)
    return server


def rotate(server: SMTPServer, secret: Path) -> None:
    """Change the password at the server and in the file, and end the open sessions."""
    server.password = NEW
    secret.write_text(f"{NEW}\n")
    pool.close()


def attempt_all() -> None:
    due = Delivery.objects.filter(status__in=("queued", "deferred"), due_at__lte=timezone.now())
    for pk in due.order_by("created_at").values_list("pk", flat=True):
        attempt(pk)


def each_once(server: SMTPServer, number: int) -> bool:
    """Return whether this many mails were accepted, each once."""
    taken = Counter(message.message_id for message in server.messages)
    return len(taken) == number and set(taken.values()) == {1} and accepted() == number


def accepted() -> int:
    return Delivery.objects.filter(status="accepted").count()


# -- rotation -------------------------------------------------------------------------------------------------------


def test_a_rotated_secret_is_picked_up_when_the_server_refuses_the_old_one(smtp_server: Serve, secret: Path) -> None:
    """There is one failed login, and no mail waits."""
    server = serve_for(smtp_server, secret)
    for _ in range(3):
        submitted()
    attempt_all()
    rotate(server, secret)
    for _ in range(5):
        submitted()
    attempt_all()
    assert each_once(server, 8)
    assert server.failed_auths == 1
    assert not CircuitBreaker.objects.exists()


@pytest.mark.parametrize("sessions", [1, 4])
def test_a_crew_picks_it_up_too(smtp_server: Serve, secret: Path, settings: Any, sessions: int) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SESSIONS": sessions}
    server = serve_for(smtp_server, secret)
    attempt(submitted().pk)
    rotate(server, secret)
    with transaction.atomic():
        for _ in range(6):
            submitted()
    send_due()
    assert each_once(server, 7)
    assert server.failed_auths == 1
    assert not CircuitBreaker.objects.exists()


def test_mail_that_the_old_secret_held_is_sent_once_a_process_has_the_new_one(smtp_server: Serve, secret: Path) -> None:
    """The server gets the new password first, and the file gets it some time later."""
    server = serve_for(smtp_server, secret)
    server.password = NEW
    for _ in range(5):
        submitted()
    attempt_all()
    assert (server.failed_auths, accepted()) == (1, 0)
    assert CircuitBreaker.objects.get().code == 535
    secret.write_text(NEW)
    CircuitBreaker.objects.update(probe_at=ago(1))
    sweep()
    attempt_all()  # the woken mail tries the old password first, and then the new one
    attempt_all()
    assert each_once(server, 5)
    assert server.failed_auths == 2
    assert not CircuitBreaker.objects.exists()


def test_a_process_that_has_never_known_the_old_one_wakes_what_waits_for_it(smtp_server: Serve, secret: Path) -> None:
    """No process would try the old password again."""
    server = serve_for(smtp_server, secret)
    server.password = NEW
    for _ in range(5):
        submitted()
    attempt_all()
    secret.write_text(NEW)
    routing.forget()
    CircuitBreaker.objects.update(probe_at=ago(1))
    sweep()
    attempt_all()
    assert each_once(server, 5)
    assert server.failed_auths == 1
    assert not CircuitBreaker.objects.exists()


def test_a_session_that_is_open_is_not_cut(smtp_server: Serve, secret: Path) -> None:
    """Servers check the password only once per session."""
    server = serve_for(smtp_server, secret)
    attempt(submitted().pk)
    server.password = NEW
    secret.write_text(NEW)
    attempt(submitted().pk)
    assert each_once(server, 2)
    assert (len(server.sessions), server.failed_auths) == (1, 0)


class Changing:
    """A secret that is different at each reading, and never right."""

    asked = 0

    def resolve(self, reference: str) -> str:
        type(self).asked += 1
        return f"wrong {self.asked}"


def test_a_secret_that_changes_with_every_reading_makes_two_logins_and_no_more(
    smtp_server: Serve, use: Use, task_queue: RecordingTaskQueue
) -> None:
    use("odd:*", SECRET_PROVIDERS={"odd": f"{__name__}.Changing"})
    server = smtp_server()
    config_for(server, password="odd:x")
    attempt(submitted().pk)
    assert server.failed_auths == 2
    assert Delivery.objects.get().waits_for_relay


# -- unavailable secrets --------------------------------------------------------------------------------------------


def test_without_the_secret_mail_waits_and_says_why(
    smtp_server: Serve, secret: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The reason does not contain the secret, and no server is contacted."""
    server = serve_for(smtp_server, secret)
    secret.rename(secret.with_name("elsewhere"))
    delivery = submitted()
    attempt(delivery.pk)
    delivery.refresh_from_db()
    assert (delivery.status, delivery.waits_for_relay) == ("deferred", True)
    assert (
        delivery.reason == f"“Primary Mail Server” cannot be used: The file {secret} does not exist or cannot be read."
    )
    assert server.sessions == []
    secret.write_text(OLD)
    routing.forget()
    due_again()
    attempt_all()
    assert each_once(server, 1)
    assert OLD not in caplog.text


def test_a_reference_that_is_no_longer_allowed_is_sent_to_no_server(smtp_server: Serve, secret: Path, use: Use) -> None:
    """Neither the secret nor its reference is sent."""
    server = serve_for(smtp_server, secret)
    use()
    attempt(submitted().pk)
    assert "SECRET_REFERENCES does not allow" in Delivery.objects.get().reason
    assert server.sessions == []


# -- the row, the pages, the commands -------------------------------------------------------------------------------


def test_the_row_holds_the_reference_sealed(secret: Path) -> None:
    stored = config(password=f"file:{secret}")
    stored.refresh_from_db()
    assert (stored.password, stored.password_kind) == (f"file:{secret}", "file")
    assert str(stored.sealed_password).startswith("fernet$")


@pytest.mark.parametrize(
    ("entered", "says"),
    [
        ("file:{folder}/none", "does not exist or cannot be read"),
        ("file:{folder}/../passwd", "SECRET_REFERENCES does not allow"),
        ("file:/etc/passwd", "SECRET_REFERENCES does not allow"),
        ("env:SECRET_KEY", "SECRET_REFERENCES does not allow"),
        ("vualt:smtp", "is not a known kind of reference"),
    ],
)
def test_the_form_refuses_what_cannot_be_had(secret: Path, entered: str, says: str) -> None:
    client = logged_in(superuser=True)
    stored = config()
    data = form_of(stored, password=entered.format(folder=secret.parent))
    page = client.post(url("change", stored.pk), data)
    assert says in " ".join(page.context["adminform"].form.errors["password"])
    tried = client.post(url("test", stored.pk), data, headers={"X-Requested-With": "fetch"})
    assert says in tried.content.decode()


def test_the_form_says_that_it_is_kept_elsewhere_and_not_what_it_is(secret: Path) -> None:
    client = logged_in(superuser=True)
    stored = config()
    before = client.get(url("change", stored.pk)).content.decode()
    assert f"A password, or where it is kept: file:{secret.parent}/*." in before
    client.post(url("change", stored.pk), form_of(stored, password=f"file:{secret}"))
    page = client.get(url("change", stored.pk)).content.decode()
    assert "The password is kept elsewhere (“file:”)" in page
    assert OLD not in page
    assert stored.history.filter(event="changed", password_changed=True).count() == 1


def test_another_server_wants_the_reference_again(secret: Path) -> None:
    """It is not a secret, but entering it decides again which server gets the password."""
    client = logged_in(superuser=True)
    stored = config(password=f"file:{secret}")
    page = client.post(url("change", stored.pk), form_of(stored, host="smtp.example.net"))
    assert "Enter the password again" in " ".join(page.context["adminform"].form.errors["password"])
    again = form_of(stored, host="smtp.example.net", password=f"file:{secret}")
    assert client.post(url("change", stored.pk), again).status_code == 302


def test_a_connection_test_asks_for_the_secret_anew(smtp_server: Serve, secret: Path) -> None:
    """A user who has just rotated the secret wants to test the new one. The result is stored with the configuration."""
    server = serve_for(smtp_server, secret)
    routing.active_relay()
    rotate(server, secret)
    stored = SMTPConfig.objects.get()
    client = logged_in(superuser=True)
    page = client.post(url("test", stored.pk), form_of(stored), headers={"X-Requested-With": "fetch"})
    assert "The connection works" in page.content.decode()
    stored.refresh_from_db()
    assert stored.passed_test
    secret.unlink()
    assert stored.passed_test
    answer = client.post(url("changelist"), {"action": "test_connection", "_selected_action": [stored.pk]}, follow=True)
    assert "does not exist or cannot be read" in said(answer)


def test_the_pages_say_that_mail_waits_for_a_secret(secret: Path) -> None:
    config(password=f"file:{secret}", is_active=True)
    secret.unlink()
    page = logged_in(superuser=True).get(url("changelist")).content.decode()
    assert "cannot be used. The file" in page


def test_validate_says_where_the_password_is_and_why_not(smtp_server: Serve, secret: Path) -> None:
    serve_for(smtp_server, secret)
    config("Spare", password="env:NOT_ALLOWED")
    _, output = validate(timeout=3)
    assert "✓ The password of the active configuration is stored elsewhere (file:)" in output
    assert "The password of “Spare”, which is not active, cannot be fetched: A text that begins with “env:”" in output
    secret.unlink()
    code, output = validate(timeout=3)
    assert code == 1
    assert "✗ The password of “Primary Mail Server” cannot be fetched: The file" in output
    assert OLD not in output


def test_the_checks_of_the_database_ask_for_no_secret(secret: Path) -> None:
    """They report references that the settings do not allow."""
    config(password=f"file:{secret}", is_active=True)
    secret.unlink()

    def found() -> list[str]:
        messages = checks.run_checks(tags=[checks.Tags.database], databases=["default"])
        return [message.msg for message in messages if message.id == "email_integration.W006"]

    assert found() == []
    SMTPConfig.objects.update(password="env:NOT_ALLOWED")
    [message] = found()
    assert message.startswith("The password of “Primary” cannot be fetched: A text that begins with “env:”")


def test_settings_with_a_password_that_looks_like_a_reference_are_imported_as_a_password(
    secret: Path, settings: Any
) -> None:
    server = {"host": "smtp.example.com", "port": 587, "use_tls": True, "username": "user"}
    name_server(settings, **server, password=f"file:{secret}")
    settings.DEFAULT_FROM_EMAIL = "noreply@example.com"
    for _ in range(2):
        call_command("import_smtp_settings")
    stored = SMTPConfig.objects.get()
    assert stored.password_kind == ""
    assert routing.relay_of(stored).password == f"file:{secret}"


def test_nothing_is_resolved_for_a_lost_key(secret: Path, settings: Any) -> None:
    """The reference is sealed like a password, and the page reports the lost key."""
    stored = config(password=f"file:{secret}")
    settings.EMAIL_INTEGRATION = {
        **settings.EMAIL_INTEGRATION,
        "SMTP_PASSWORD_KEYS": ["MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="],
    }
    stored.refresh_from_db()
    assert stored.password_kind == ""
    client: Client = logged_in(superuser=True)
    assert "password unreadable" in client.get(url("changelist")).content.decode()
