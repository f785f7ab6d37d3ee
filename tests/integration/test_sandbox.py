"""REDIRECT_ALL_TO and ALLOWED_RECIPIENTS with a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.mail import EmailMessage
from django.utils import timezone

from config.local.processes import PATIENCE
from email_integration.diagnosis.connection_test_mail import build_test_mail
from email_integration.exceptions import EmailIntegrationError, InvalidMail
from email_integration.message import content
from email_integration.models import Delivery, SendingPause, Status
from email_integration.queue.submission import submit
from email_integration.routing import active_relay
from email_integration.smtp import Relay
from email_integration.smtpd import Fault, SMTPServer
from tests.deliveries import ago, attempt
from tests.integration.validating import activate, validate
from tests.mail_settings import make_backend
from tests.relays import wait_longest

pytestmark = pytest.mark.django_db(transaction=True)

TO, CC, BCC = "Kim@Customer.com", "lee@customer.com", "boss@us.com"
WITHHELD = "withheld: not in ALLOWED_RECIPIENTS"
Set = Callable[..., None]


@pytest.fixture
def set_(settings: Any) -> Set:
    def set_(**keys: Any) -> None:
        settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, **keys}

    return set_


@pytest.fixture
def server(smtp_server: Callable[..., SMTPServer]) -> SMTPServer:
    server = smtp_server()
    activate(server)
    return server


def message() -> EmailMessage:
    return EmailMessage("Subject", "Body", "a@example.com", [TO], cc=[CC], bcc=[BCC])


def tried(delivery: Delivery) -> Delivery:
    """Attempt the delivery, even if it is not due, and return its row afterwards."""
    Delivery.objects.filter(pk=delivery.pk).update(due_at=timezone.now(), next_at=ago(1))
    attempt(delivery.pk)
    return Delivery.objects.get(pk=delivery.pk)


def settled(delivery: Delivery) -> dict[str, tuple[str, str]]:
    return {item["address"]: (item["status"], item.get("reply", "")) for item in delivery.recipients}


def test_mail_submitted_before_is_redirected_too(server: SMTPServer, set_: Set) -> None:
    """To, Cc and Bcc alike. The content stays unchanged, byte for byte."""
    delivery = submit(message())
    submitted = content.read(delivery)
    set_(REDIRECT_ALL_TO=["staging@us.com", "qa@us.com"])

    delivery = tried(delivery)

    [received] = server.messages
    assert received.rcpt_tos == ("staging@us.com", "qa@us.com")
    assert submitted.rstrip() == received.content.rstrip()
    assert received.parsed["To"] == TO
    assert delivery.status == Status.ACCEPTED
    assert delivery.redirected_to == "staging@us.com, qa@us.com"
    assert {status for status, _ in settled(delivery).values()} == {"accepted"}


def test_a_recipient_that_is_not_allowed_is_withheld_and_the_others_get_the_mail(server: SMTPServer, set_: Set) -> None:
    """Each recipient is settled individually."""
    set_(ALLOWED_RECIPIENTS=["US.com"])

    delivery = tried(submit(message()))

    assert [received.rcpt_tos for received in server.messages] == [(BCC,)]
    assert delivery.status == Status.ACCEPTED
    assert delivery.redirected_to == ""
    assert settled(delivery) == {
        TO: ("failed", WITHHELD),
        CC: ("failed", WITHHELD),
        BCC: ("accepted", ""),
    }


def test_a_delivery_without_allowed_recipients_finishes_with_the_reason(server: SMTPServer, set_: Set) -> None:
    """The server is not contacted."""
    set_(ALLOWED_RECIPIENTS=["elsewhere.com"])

    delivery = tried(submit(message()))

    assert (delivery.status, delivery.code, delivery.reason) == (Status.FAILED, None, WITHHELD)
    assert set(settled(delivery).values()) == {("failed", WITHHELD)}
    assert not server.sessions
    assert delivery.attempt_log.get().reason == WITHHELD


def test_a_redirection_that_is_not_allowed_goes_nowhere(server: SMTPServer, set_: Set) -> None:
    """The allow-list takes precedence."""
    set_(REDIRECT_ALL_TO=["staging@us.com"], ALLOWED_RECIPIENTS=["elsewhere.com"])

    assert tried(submit(message())).status == Status.FAILED
    assert not server.sessions


def test_a_redirection_refused_by_the_server_is_no_word_about_customers(server: SMTPServer, set_: Set) -> None:
    """After a temporary refusal, the mail is tried again at the redirection. After a permanent one, it has failed for
    all recipients.
    """
    set_(REDIRECT_ALL_TO=["staging@us.com"])
    server.inject(Fault(verb="RCPT", reply="450 4.2.0 Busy", times=1))
    delivery = tried(submit(message()))
    assert delivery.status == Status.DEFERRED
    assert {status for status, _ in settled(delivery).values()} == {"pending"}

    server.inject(Fault(verb="RCPT", reply="550 5.1.1 No such user", times=1))
    delivery = tried(delivery)

    assert delivery.status == Status.FAILED
    assert {status for status, _ in settled(delivery).values()} == {"failed"}
    assert not server.messages


def test_a_refusal_does_not_hide_who_was_withheld(server: SMTPServer, set_: Set) -> None:
    """Each recipient keeps its own reason."""
    set_(ALLOWED_RECIPIENTS=["us.com"])
    server.inject(Fault(verb="RCPT", reply="550 5.1.1 No such user"))

    delivery = tried(submit(message()))

    assert delivery.status == Status.FAILED
    assert settled(delivery)[TO] == ("failed", WITHHELD)
    assert "No such user" in settled(delivery)[BCC][1]


def test_a_redirection_in_doubt_is_recorded(server: SMTPServer, set_: Set) -> None:
    """The redirection may already have received the mail."""
    set_(REDIRECT_ALL_TO=["staging@us.com"], IN_DOUBT="hold")
    server.inject(Fault(verb="DOT", drop_after_accept=True))

    delivery = tried(submit(message()))

    assert delivery.status == Status.IN_DOUBT
    assert delivery.redirected_to == "staging@us.com"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("REDIRECT_ALL_TO", "staging@us.com"),
        ("REDIRECT_ALL_TO", ["us.com"]),
        ("ALLOWED_RECIPIENTS", "us.com"),
        ("ALLOWED_RECIPIENTS", [""]),
        ("ALLOWED_RECIPIENTS", [None]),
    ],
)
def test_what_cannot_be_understood_stops_mail(
    server: SMTPServer, set_: Set, monkeypatch: pytest.MonkeyPatch, key: str, value: Any
) -> None:
    """The mail is not sent. It waits until the setting is corrected, and is not tried more often than other mail."""
    wait_longest(monkeypatch)
    delivery = submit(message())
    set_(RETRY_FIRST=3600.0, RETRY_MAX=3600.0, **{key: value})

    delivery = tried(delivery)

    assert delivery.status == Status.DEFERRED
    assert key in delivery.reason
    assert delivery.due_at > timezone.now()
    assert not server.sessions


def test_a_pause_withholds_nothing(server: SMTPServer, set_: Set) -> None:
    """Mail waits unchanged, so a wrong list can be corrected."""
    set_(ALLOWED_RECIPIENTS=["elsewhere.com"])
    SendingPause.begin()

    delivery = tried(submit(message()))

    assert delivery.status == Status.DEFERRED
    assert {status for status, _ in settled(delivery).values()} == {"pending"}


def test_the_direct_backend_keeps_to_it(server: SMTPServer, set_: Set) -> None:
    """This mail has no row."""
    backend = make_backend("email_integration.backends.direct.EmailBackend")
    set_(REDIRECT_ALL_TO=["staging@us.com"])
    assert backend.send_messages([message()]) == 1
    assert server.messages[0].rcpt_tos == ("staging@us.com",)
    assert server.messages[0].parsed["To"] == TO

    set_(REDIRECT_ALL_TO=[], ALLOWED_RECIPIENTS=["us.com"])
    assert backend.send_messages([message()]) == 1
    assert server.messages[1].rcpt_tos == (BCC,)

    set_(ALLOWED_RECIPIENTS=["elsewhere.com"])
    with pytest.raises(EmailIntegrationError, match=WITHHELD):
        backend.send_messages([message()])
    assert len(server.messages) == 2


def test_test_mails_keep_to_it(server: SMTPServer, set_: Set) -> None:
    """Test mails from the admin and from the shell."""
    relay = active_relay()
    assert isinstance(relay, Relay)
    set_(REDIRECT_ALL_TO=["staging@us.com"])
    assert build_test_mail(relay, to=TO).envelope.recipients == ("staging@us.com",)
    assert f"successfully to {TO} (REDIRECT_ALL_TO: sent to staging@us.com instead)" in validate("--test-email", TO)[1]
    assert server.messages[0].rcpt_tos == ("staging@us.com",)

    set_(REDIRECT_ALL_TO=[], ALLOWED_RECIPIENTS=["us.com"])
    with pytest.raises(InvalidMail, match=WITHHELD):
        build_test_mail(relay, to=TO)
    code, output = validate("--test-email", TO)
    assert code == 1
    assert f"✗ No test email was sent: The address '{TO}' is {WITHHELD}" in output

    set_(ALLOWED_RECIPIENTS="us.com")
    assert (
        "✗ No test email was sent: EMAIL_INTEGRATION['ALLOWED_RECIPIENTS'] must be a list"
        in validate("--test-email", TO)[1]
    )
    assert len(server.messages) == 1


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({"REDIRECT_ALL_TO": "a@us.com, B@us.com"}, "['a@us.com', 'B@us.com'] []"),
        ({"ALLOWED_RECIPIENTS": "us.com,.Staging.us.com,kim@customer.com"}, ""),
        ({"REDIRECT_ALL_TO": "", "ALLOWED_RECIPIENTS": ""}, "[] []"),
        ({"REDIRECT_ALL_TO": "us.com"}, "REDIRECT_ALL_TO: "),
        ({"REDIRECT_ALL_TO": ","}, "REDIRECT_ALL_TO: "),
        ({"ALLOWED_RECIPIENTS": ","}, "ALLOWED_RECIPIENTS: "),
        ({"ALLOWED_RECIPIENTS": "us.com,*"}, "ALLOWED_RECIPIENTS: "),
        ({"ALLOWED_RECIPIENTS": "us .com"}, "ALLOWED_RECIPIENTS: "),
    ],
)
def test_the_environment_sets_them_or_stops_the_start(variables: dict[str, str], shown: str, tmp_path: Path) -> None:
    """An empty list would otherwise allow all recipients."""
    code = "import config.settings as s; e = s.EMAIL_INTEGRATION; print(e['REDIRECT_ALL_TO'], e['ALLOWED_RECIPIENTS'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "config.settings", "VAR_DIR": str(tmp_path), **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

    assert shown in done.stdout + done.stderr
    assert (done.returncode != 0) == shown.endswith(": ")
