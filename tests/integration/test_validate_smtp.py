"""``validate_notification_setup``: the configuration in use, and a test mail through its server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection

from email_integration.smtpd import Fault, SMTPServer
from tests.mail_settings import name_server

from .validating import activate, validate

pytestmark = pytest.mark.django_db


def test_the_first_section_reads_exactly_so(smtp_server: Callable[..., SMTPServer], settings: Any) -> None:
    """With a configuration in the database and a server that accepts the mail."""
    settings.ADMINS = [("Admin", "admin@example.com"), ("Other", "other@example.com")]
    server = smtp_server()
    activate(server)

    _, output = validate("--test-email")

    assert output.startswith(
        "1. Checking Email/SMTP Configuration...\n"
        "   ℹ Using SMTP config from database: Primary Mail Server\n"
        "   ✓ SMTP configuration looks valid\n"
        "\n"
        "   Testing SMTP connection...\n"
        "   ✓ Test email sent successfully to admin@example.com\n"
    )
    [message] = server.messages
    assert message.rcpt_tos == ("admin@example.com",)
    assert message.mail_from == "noreply@example.com"


def test_an_address_given_is_the_one_written_to(smtp_server: Callable[..., SMTPServer], settings: Any) -> None:
    """ADMINS do not matter then."""
    settings.ADMINS = [("Admin", "admin@example.com")]
    server = smtp_server()
    activate(server)

    _, output = validate("--test-email", "someone@example.org")

    assert "✓ Test email sent successfully to someone@example.org\n" in output
    assert [message.rcpt_tos for message in server.messages] == [("someone@example.org",)]


def test_without_admins_the_first_superuser_with_an_address_is_written_to(
    smtp_server: Callable[..., SMTPServer], settings: Any
) -> None:
    """Django 6 accepts plain addresses in ADMINS. At first there are none here."""
    settings.ADMINS = []
    users: Any = get_user_model()
    users.objects.create_superuser("without", "")
    users.objects.create_user("ordinary", "ordinary@example.com")
    users.objects.create_superuser("with", "root@example.com")
    server = smtp_server()
    activate(server)

    assert "Test email sent successfully to root@example.com" in validate("--test-email")[1]

    settings.ADMINS = ["plain@example.com"]
    assert "Test email sent successfully to plain@example.com" in validate("--test-email")[1]


def test_without_a_recipient_it_says_how_to_name_one(smtp_server: Callable[..., SMTPServer], settings: Any) -> None:
    """The connection is tested nevertheless."""
    settings.ADMINS = []
    activate(smtp_server())

    code, output = validate("--test-email")

    assert code == 1
    assert "   ✓ Connected to localhost:" in output
    assert "   ✗ The test email has no recipient" in output
    assert "--test-email you@example.com" in output


def test_without_a_test_mail_the_connection_alone_is_tested(smtp_server: Callable[..., SMTPServer]) -> None:
    """The test ends with the login."""
    server = smtp_server()
    activate(server)

    _, output = validate()

    assert f"   ✓ Connected to localhost:{server.port}" in output
    assert server.auths
    assert not server.messages


@pytest.mark.parametrize(
    ("change", "faults", "says"),
    [
        ({"password": "wrong"}, [], "535"),
        ({"port": 1}, [], "refused"),
        ({"host": "nowhere.invalid"}, [], "nowhere.invalid"),
        ({"use_tls": False}, [Fault(verb="AUTH", reply="530 5.7.0 Must issue a STARTTLS command first")], "localhost"),
        ({}, [Fault(verb="CONNECT", reply="554 5.7.1 Go away")], "554"),
        ({}, [Fault(verb="RCPT", reply="550 5.1.1 No such user")], "550 5.1.1"),
        ({}, [Fault(verb="DOT", reply="554 5.7.1 Spam")], "554 5.7.1"),
    ],
)
def test_what_fails_is_a_line_and_exit_code_1(
    smtp_server: Callable[..., SMTPServer], change: dict[str, Any], faults: list[Fault], says: str
) -> None:
    """It does not matter what the server replies, or whether it replies."""
    server = smtp_server(faults=faults)
    activate(server, **change)

    code, output = validate("--test-email", "someone@example.com")

    assert code == 1
    wrong = [line for line in output.splitlines() if line.startswith("   ✗ ")]
    assert says in wrong[0]


def test_a_lost_key_is_reported_by_configuration_and_setting(
    smtp_server: Callable[..., SMTPServer], settings: Any
) -> None:
    """The ciphertext is not sent as a password."""
    server = smtp_server()
    activate(server)
    settings.EMAIL_INTEGRATION = {
        **settings.EMAIL_INTEGRATION,
        "SMTP_PASSWORD_KEYS": ["MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="],
    }

    code, output = validate("--test-email", "someone@example.com")

    assert code == 1
    assert "“Primary Mail Server”" in output
    assert "SMTP_PASSWORD_KEYS" in output
    assert not server.sessions


def test_without_an_active_configuration_the_settings_are_tried(
    smtp_server: Callable[..., SMTPServer], settings: Any
) -> None:
    """The steps are the same."""
    server = smtp_server()
    name_server(settings, host="localhost", port=server.port, use_tls=True, username="user", password="password")
    settings.DEFAULT_FROM_EMAIL = "noreply@example.com"

    _, output = validate("--test-email", "someone@example.com")

    assert f"   ℹ Using SMTP config from Django settings: localhost:{server.port}\n" in output
    assert "   ✓ Test email sent successfully to someone@example.com" in output


def test_with_nowhere_to_go_it_says_where_to_make_one(settings: Any) -> None:
    """There is neither an active configuration nor EMAIL_HOST."""
    code, output = validate()

    assert code == 1
    assert "✗ Mail is held" in output
    assert "SMTP Configurations in the admin" in output


def test_a_lost_key_of_another_configuration_is_a_warning(smtp_server: Callable[..., SMTPServer]) -> None:
    """The warning comes before a user activates that configuration."""
    activate(smtp_server())
    activate(smtp_server(), name="Backup", is_active=False)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE email_integration_smtpconfig SET password = 'fernet$x' WHERE name = 'Backup'")

    _, output = validate()

    assert "   ⚠ The password of “Backup”, which is not active, cannot be decrypted" in output
    assert "   ✓ The password of the active configuration can be decrypted\n" in output
