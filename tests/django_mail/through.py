"""What Django's tests need to go through one of our backends: the setting, a server, and what arrives there."""

from __future__ import annotations

import functools
import os
import unittest
from email import message_from_bytes, policy
from email.message import EmailMessage as Parsed
from typing import Any

from django.conf import settings
from django.core import mail
from django.core.mail import EmailMessage
from django.test import SimpleTestCase, override_settings

from config.local.smtp_server import SMTPServer
from config.local.smtp_server.records import Message
from email_integration.delivery.dispatch import pool
from email_integration.models import SMTPConfig

from .left_out import LEFT_OUT

#: The path of the backend to run with.
BACKEND = os.environ["BACKEND"]


def leaving_out(cls: type[unittest.TestCase]) -> type[unittest.TestCase]:
    """Expect the tests in the table to fail; they stay what they are for other classes."""
    for name in sorted(LEFT_OUT.keys() & set(dir(cls))):
        setattr(cls, name, unittest.expectedFailure(_copy_of(getattr(cls, name))))
    return cls


def _copy_of(test: Any) -> Any:
    @functools.wraps(test)
    def run(self: unittest.TestCase) -> None:
        test(self)

    return run


class ThroughOurs(SimpleTestCase):
    """Our backend is the project's, and the active configuration names the server of the class."""

    databases = {"default"}
    email_backend = BACKEND
    server: SMTPServer

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.enterClassContext(override_settings(EMAIL_BACKEND=BACKEND))
        config = SMTPConfig.objects.create(
            name="Django's tests",
            host="127.0.0.1",
            port=cls.start_server(),
            use_tls=False,
            from_email=settings.DEFAULT_FROM_EMAIL,
            is_active=True,
        )
        cls.addClassCleanup(config.delete)
        cls.addClassCleanup(pool.close)

    @classmethod
    def start_server(cls) -> int:
        """Start it and return its port."""
        cls.server = cls.enterClassContext(SMTPServer(security="plain", user=None))
        return cls.server.port


class Arrived(EmailMessage):
    """A message out of the server, with what Django's tests look at in those of ``mail.outbox``."""

    def __init__(self, arrived: Message) -> None:
        self._recipients = list(arrived.rcpt_tos)
        # Django's own server takes the last line ends away as well.
        self._parsed = message_from_bytes(arrived.content.rstrip(), policy=policy.default)
        super().__init__(self._parsed["Subject"], to=[address.addr_spec for address in self._parsed["To"].addresses])

    def recipients(self) -> list[str]:
        return self._recipients

    def message(self) -> Parsed:  # type: ignore[override]  # what Django returns from version 6 on
        return self._parsed


class ToOutbox(ThroughOurs):
    """What arrives at the server is in ``mail.outbox``, which Django's runner empties before each test."""

    @classmethod
    def start_server(cls) -> int:
        port = super().start_server()
        cls.server.on_message = lambda message: mail.outbox.append(Arrived(message))
        return port
