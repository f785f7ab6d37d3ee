"""A project whose code was written for Django's SMTP backend and stays unchanged."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from email_integration.smtpd import SMTPServer
from tests.host_project import CONFIGURE, POSTGRESQL, HostProject

pytestmark = pytest.mark.extra

#: Django 6.1 accepts it, with a warning, as long as MAILERS is not set.
BACKEND = """
EMAIL_BACKEND = "email_integration.backends.queued.EmailBackend"
DEFAULT_FROM_EMAIL = "root@localhost"
SILENCED_SYSTEM_CHECKS = ["mail.W001"]
"""

#: Sends mails of many kinds, and prints how many were accepted in time.
CODE = """
import time
from django.core.mail import EmailMessage, EmailMultiAlternatives, mail_admins, send_mail
from django.utils.functional import lazystr
from email_integration.models import Delivery

send_mail("S", "B", lazystr("Kim <kim@example.com>"), ["root"])
send_mail("S", "B", None, ["a" * 65 + "@example.com", "b..c@example.com", '"john doe"@example.com'])
EmailMessage("S", "B", None, ["kim@example.com"], reply_to=["kim@example.com, lee@example.com"]).send()
EmailMessage("S", "B", None, ["kim@example.com"], headers={"X-Priority": 1}, reply_to=["b" * 90 + "@x.example"]).send()
message = EmailMultiAlternatives("S", "B", None, bcc=["kim@example.com\\n"])
message.attach("a.pdf", memoryview(b"%PDF"), "application/pdf")
message.attach("b.pdf", bytearray(b"%PDF"), "application/pdf")
message.attach_alternative("BEGIN:VCALENDAR", "text/calendar; method=REQUEST")
message.send()
until = time.monotonic() + 100
while Delivery.objects.exclude(status="accepted").exists() and time.monotonic() < until:
    time.sleep(0.2)
print(Delivery.objects.filter(status="accepted").count())
"""


def test_code_for_django_goes_on_working(
    row: Callable[[str, str], None],
    host: Callable[..., HostProject],
    postgresql: str,
    smtp_server: Callable[..., SMTPServer],
) -> None:
    row("code for Django's SMTP backend: 'root', long and quoted local parts, memoryview, numbers", "5 of 5 mails sent")
    project = host(POSTGRESQL + BACKEND, env={"DATABASE": postgresql})
    project.run("manage.py", "migrate", "--verbosity", "0")
    server = smtp_server()
    project.shell(CONFIGURE.format(port=server.port))
    project.start_worker()
    assert project.shell(CODE).strip() == "5"
    assert len(server.messages) == 5
