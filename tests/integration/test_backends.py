"""Django's own mail functions with both backends."""

from __future__ import annotations

import logging
import smtplib
from collections.abc import Callable
from typing import Any

import django
import pytest
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage, EmailMultiAlternatives, send_mail, send_mass_mail
from django.core.mail.backends.base import BaseEmailBackend
from django.db import connection
from django.utils.module_loading import import_string

from email_integration.exceptions import InvalidMail, NotSent
from email_integration.models import Delivery
from email_integration.smtpd import Fault, SMTPServer
from tests.deliveries import RecordingTaskQueue, attempt
from tests.mail_settings import HAS_MAILERS, NO_SERVER, make_backend, name_server
from tests.relays import config_for

Serve = Callable[..., SMTPServer]
Send = Callable[[], list[Any]]

pytestmark = pytest.mark.django_db(transaction=True)

#: The test uses functions that Django 6.1 deprecates and that users still call.
DEPRECATED = pytest.mark.filterwarnings("ignore:.*(is|are) deprecated")

BACKENDS = [f"email_integration.backends.{name}.EmailBackend" for name in ("queued", "direct")]


@pytest.fixture(params=BACKENDS, ids=["queued", "direct"])
def backend(request: pytest.FixtureRequest, settings: Any, task_queue: RecordingTaskQueue) -> str:
    return use(settings, request.param)


@pytest.fixture
def queued(settings: Any, task_queue: RecordingTaskQueue) -> str:
    return use(settings, BACKENDS[0])


@pytest.fixture
def direct(settings: Any, task_queue: RecordingTaskQueue) -> str:
    return use(settings, BACKENDS[1])


def use(settings: Any, path: str) -> str:
    name_server(settings, backend=path)
    settings.DEFAULT_FROM_EMAIL = "default@example.com"
    settings.SERVER_EMAIL = "root@example.com"
    # Django 6.0 accepts plain addresses and deprecates the pairs.
    settings.ADMINS = ["ada@example.com"] if django.VERSION >= (6, 0) else [("Ada", "ada@example.com")]
    return path


def default_backend() -> Any:
    """Return the backend that send_mail() uses by default."""
    return mail.mailers.default if HAS_MAILERS else mail.get_connection()


def work() -> None:
    """Attempt all deliveries, as workers do."""
    for delivery in Delivery.objects.all():
        attempt(delivery.pk)


def test_send_mail_needs_no_change(backend: str, smtp_server: Serve) -> None:
    """If the caller gives no sender, the configuration's sender is used."""
    server = smtp_server()
    config_for(server)
    assert send_mail("Grüße", "Text", None, ["kim@example.com"], html_message="<p>Text</p>") == 1
    work()
    (message,) = server.messages
    assert (message.subject, message.mail_from) == ("Grüße", "noreply@example.com")
    assert message.parsed["From"] == "Hanna <noreply@example.com>"
    assert [part.get_content_type() for part in message.parsed.walk()] == [
        "multipart/alternative",
        "text/plain",
        "text/html",
    ]


def test_a_chosen_sender_stays(backend: str, smtp_server: Serve) -> None:
    server = smtp_server()
    config_for(server)
    send_mail("S", "B", "Lee <lee@example.com>", ["kim@example.com"])
    work()
    assert (server.messages[0].mail_from, server.messages[0].parsed["From"]) == (
        "lee@example.com",
        "Lee <lee@example.com>",
    )


def test_a_message_of_ones_own_arrives_whole(backend: str, smtp_server: Serve) -> None:
    server = smtp_server()
    config_for(server)
    message = EmailMultiAlternatives(
        "S",
        "text",
        "a@example.com",
        ["kim@example.com"],
        bcc=["bcc@example.com"],
        cc=["cc@example.com"],
        headers={"X-A": "1"},
    )
    message.attach_alternative("<p>html</p>", "text/html")
    message.attach("a.bin", bytes(range(256)), "application/octet-stream")
    assert message.send() == 1
    work()
    (found,) = server.messages
    assert found.rcpt_tos == ("kim@example.com", "cc@example.com", "bcc@example.com")
    assert found.parsed["X-A"] == "1"
    assert [part.get_content() for part in found.parsed.iter_attachments()] == [bytes(range(256))]
    assert b"bcc@" not in found.content


def test_admins_get_their_mail_from_the_server(backend: str, smtp_server: Serve) -> None:
    server = smtp_server()
    config_for(server)
    mail.mail_admins("Fire", "Now")
    work()
    assert (server.messages[0].mail_from, server.messages[0].rcpt_tos) == ("root@example.com", ("ada@example.com",))


def test_the_number_of_mails_is_returned(backend: str, smtp_server: Serve) -> None:
    server = smtp_server()
    config_for(server)
    given = [("S", "B", None, ["kim@example.com"]), ("S", "B", None, []), ("S", "B", None, ["lee@example.com"])]
    assert send_mass_mail(given) == 2
    assert default_backend().send_messages(iter([])) == 0
    work()
    assert len(server.messages) == 2


@DEPRECATED
@pytest.mark.parametrize("credentials", [{"auth_user": "user"}, {"auth_password": "s3cret"}])
def test_credentials_per_call_are_refused(backend: str, credentials: dict[str, str]) -> None:
    with pytest.raises(ImproperlyConfigured, match="auth_user, auth_password") as caught:
        send_mail("S", "B", None, ["kim@example.com"], **credentials)
    assert "s3cret" not in str(caught.value)


@DEPRECATED
@pytest.mark.parametrize("credentials", [{"username": "user"}, {"password": "s3cret", "fail_silently": True}])
def test_credentials_of_a_connection_are_refused(backend: str, credentials: dict[str, Any]) -> None:
    """This also applies with MAILERS, whose OPTIONS may hold the credentials of the fallback."""
    with pytest.raises(ImproperlyConfigured, match="auth_user, auth_password"):
        mail.get_connection(**credentials)


@DEPRECATED
def test_a_connection_knows_whether_it_is_to_fail_silently(backend: str) -> None:
    for silent in (True, False):
        assert mail.get_connection(username=None, password=None, fail_silently=silent).fail_silently is silent
    assert default_backend().fail_silently is False


@pytest.mark.parametrize("silent", [True, False])
def test_an_entry_of_mailers_says_whether_to_fail_silently(backend: str, silent: bool) -> None:
    assert make_backend(backend, fail_silently=silent).fail_silently is silent


@DEPRECATED
@pytest.mark.parametrize("bad", [{"subject": "a\nb"}, {"to": ["kim@"]}, {"from_email": "noreply@"}])
def test_a_mail_that_cannot_be_sent_raises_at_once_or_is_passed_over(backend: str, bad: dict[str, Any]) -> None:
    given = {"subject": "S", "body": "B", "to": ["kim@example.com"], **bad}
    with pytest.raises(InvalidMail):
        EmailMessage(**given).send()
    assert EmailMessage(**given).send(fail_silently=True) == 0
    assert not Delivery.objects.exists()


# -- the queued backend ---------------------------------------------------------------------------------------------


def test_many_mails_are_one_transaction_and_one_wake_up(queued: str, task_queue: RecordingTaskQueue) -> None:
    send_mass_mail([("S", "B", None, [f"kim{number}@example.com"]) for number in range(5)])
    assert len(task_queue.woken) == 1


def test_one_bad_mail_of_many_submits_none(queued: str, task_queue: RecordingTaskQueue) -> None:
    with pytest.raises(InvalidMail):
        send_mass_mail([("S", "B", None, ["kim@example.com"]), ("S", "B", None, ["lee@"])])
    assert not Delivery.objects.exists()
    assert task_queue.woken == []


# -- the direct backend ---------------------------------------------------------------------------------------------


def test_direct_writes_no_row(direct: str, smtp_server: Serve) -> None:
    server = smtp_server()
    config_for(server)
    send_mail("S", "B", None, ["kim@example.com"])
    assert len(server.messages) == 1
    assert not Delivery.objects.exists()


@DEPRECATED
@pytest.mark.parametrize(
    ("fault", "code", "status"),
    [
        (Fault(verb="RCPT", reply="550 5.1.1 <kim@example.com> unknown"), 550, "failed"),
        (Fault(verb="RCPT", reply="450 4.2.0 Later"), 450, "deferred"),
        (Fault(verb="AUTH", reply="535 5.7.8 Wrong"), 535, "deferred"),
        (Fault(verb="CONNECT", drop=True), None, "deferred"),
        (Fault(verb="DOT", drop_after_accept=True), None, "in_doubt"),
    ],
)
def test_code_that_catches_smtplibs_exceptions_still_does(
    direct: str, smtp_server: Serve, fault: Fault, code: int | None, status: str
) -> None:
    config_for(smtp_server(faults=[fault]))
    with pytest.raises(smtplib.SMTPException) as caught:
        send_mail("S", "B", None, ["kim@example.com"])
    assert isinstance(caught.value, NotSent)
    assert (caught.value.code, caught.value.status) == (code, status)
    assert "kim@" not in f"{caught.value!r} {caught.value}"
    assert send_mail("S", "B", None, ["kim@example.com"], fail_silently=True) == 0


@pytest.mark.parametrize("option", [{"priority": "high"}, {"due_at": None}, {"envelope_sender": "a@example.com"}])
def test_direct_refuses_the_options_of_mail_that_waits(option: dict[str, Any]) -> None:
    with pytest.raises(
        ImproperlyConfigured, match=rf"direct sends immediately and does not accept {next(iter(option))}\. "
    ):
        make_backend("email_integration.backends.direct.EmailBackend", **option)


def test_without_a_relay_direct_says_so(direct: str) -> None:
    with pytest.raises(NotSent, match=NO_SERVER):
        send_mail("S", "B", None, ["kim@example.com"])


def test_recipients_that_were_refused_do_not_vanish(
    direct: str, smtp_server: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    config_for(smtp_server(faults=[Fault(verb="RCPT", reply="550 5.1.1 No", match="lee@")]))
    with caplog.at_level(logging.WARNING):
        assert send_mail("S", "B", None, ["kim@example.com", "lee@example.com"]) == 1
    assert "The server refused 1 recipients of a mail (550 5.1.1)" in caplog.text
    assert "lee@" not in caplog.text


def test_direct_works_inside_a_transaction(direct: str, smtp_server: Serve) -> None:
    from django.db import transaction

    server = smtp_server()
    config_for(server)
    with transaction.atomic():
        send_mail("S", "B", None, ["kim@example.com"])
        assert connection.in_atomic_block
    assert len(server.messages) == 1


@pytest.mark.parametrize("path", BACKENDS)
def test_an_entry_of_mailers_may_name_the_server_that_is_the_fallback(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Django 6.1 creates backends this way, and its base class accepts only the alias."""
    given: dict[str, Any] = {}

    def strict(self: Any, *, alias: str | None = None) -> None:
        given["alias"] = alias

    monkeypatch.setattr(django, "VERSION", (6, 1, 0, "final", 0))
    monkeypatch.setattr(BaseEmailBackend, "__init__", strict)
    options = {"host": "smtp.example.com", "port": 587, "username": "user", "password": "password", "use_tls": True}
    made = import_string(path)(alias="default", **options)
    assert given == {"alias": "default"}
    assert made.send_messages([]) == 0
