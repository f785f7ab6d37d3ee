"""Support for Django's tests to use one of our backends: the setting, a server, and the messages that arrive there."""

# ruff: noqa: PT009 - not for pytest, but for Django's runner

from __future__ import annotations

import functools
import os
import unittest
from collections.abc import Iterable
from email.message import EmailMessage as Parsed
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import django
import mail as djangos_tests
from django.conf import settings
from django.core import mail
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.test import SimpleTestCase, override_settings
from django.utils.module_loading import import_string
from django.utils.translation import gettext_lazy
from mail.tests import message_from_bytes

from email_integration.models import SMTPConfig
from email_integration.sending.sessions import pool
from email_integration.smtpd import Message, SMTPServer

from .left_out import LEFT_OUT

#: The import path of the backend under test.
BACKEND = os.environ["BACKEND"]

#: A replacement for one of Django's backend modules.
OURS = SimpleNamespace(EmailBackend=import_string(BACKEND))


def leaving_out(cls: type[unittest.TestCase]) -> type[unittest.TestCase]:
    """Expect the listed tests to fail in this class only; other classes keep the original test."""
    for name in sorted(tests_left_out_of(cls)):
        setattr(cls, name, unittest.expectedFailure(_copy_of(getattr(cls, name))))
    return cls


def tests_left_out_of(cls: type[unittest.TestCase]) -> set[str]:
    """Return the names of the tests in the table that the class has."""
    return {name for name in dir(cls) if name in LEFT_OUT or f"{cls.__name__}.{name}" in LEFT_OUT}


def _copy_of(test: Any) -> Any:
    @functools.wraps(test)
    def run(self: unittest.TestCase) -> None:
        test(self)

    return run


def default_backend() -> BaseEmailBackend:
    """Return the backend for mail that names no backend."""
    return mail.mailers.default if django.VERSION >= (6, 1) else mail.get_connection()


def _settings_with_ours() -> override_settings:
    """Name our backend in place of Django's: in each entry of MAILERS, or in EMAIL_BACKEND without MAILERS."""
    if hasattr(settings, "MAILERS"):
        return override_settings(MAILERS={alias: {"BACKEND": BACKEND} for alias in settings.MAILERS})
    if django.VERSION >= (6, 1):
        return djangos_tests.override_deprecated_email_settings(EMAIL_BACKEND=BACKEND)
    return override_settings(EMAIL_BACKEND=BACKEND)


class ThroughOurs(SimpleTestCase):
    """A test class with our backend as the project's backend and its server in the active configuration."""

    databases = {"default"}
    email_backend = BACKEND
    server: SMTPServer

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.enterClassContext(_settings_with_ours())
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
        """Start the server and return its port."""
        cls.server = cls.enterClassContext(SMTPServer(security="plain", user=None))
        return cls.server.port


class Arrived(EmailMessage):
    """A message from the server, with the attributes that Django's tests check on messages in ``mail.outbox``."""

    def __init__(self, arrived: Message, sent_using: str | None) -> None:
        self._recipients = list(arrived.rcpt_tos)
        # The server of Django's tests does the same.
        content = arrived.content.rstrip() if django.VERSION < (6, 0) else arrived.content.replace(b"\r\n", b"\n")
        self._parsed = message_from_bytes(content)
        body = self._parsed.get_body(("plain",)).get_content()
        super().__init__(
            self._parsed["Subject"],
            body.removesuffix("\n"),  # Django 6 and later add it when they render
            self._parsed["From"],
            [address.addr_spec for address in self._parsed["To"].addresses],
        )
        self.sent_using = sent_using

    def recipients(self) -> list[str]:
        return self._recipients

    def message(self) -> Parsed:  # type: ignore[override]  # the return type of Django 6 and later
        return self._parsed


class ToOutbox(ThroughOurs):
    """Puts each message that arrives into ``mail.outbox``, which Django's runner empties before each test."""

    _alias: str | None = None

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        send_messages = OURS.EmailBackend.send_messages

        def noting_the_alias(backend: BaseEmailBackend, messages: Iterable[EmailMessage]) -> int:
            cls._alias = getattr(backend, "alias", None)
            return send_messages(backend, messages)

        cls.enterClassContext(mock.patch.object(OURS.EmailBackend, "send_messages", noting_the_alias))

    @classmethod
    def start_server(cls) -> int:
        port = super().start_server()
        cls.server.on_message = lambda message: mail.outbox.append(Arrived(message, cls._alias))
        return port


class ToDjangosServer(ThroughOurs):
    """Our backend in place of Django's SMTP backend, with the server that Django's tests start."""

    #: The module of Django's tests whose 'smtp' is replaced by ours.
    djangos_module: ModuleType

    @classmethod
    def setUpClass(cls) -> None:
        cls.enterClassContext(mock.patch.object(cls.djangos_module, "smtp", OURS))
        super().setUpClass()

    @classmethod
    def start_server(cls) -> int:
        return int(cls.smtp_controller.port)

    def setUp(self) -> None:
        super().setUp()
        # Django's backend opens a connection each time, and its test server keeps no state beyond a test.
        self.addCleanup(pool.close)


class LikeTheSMTPBackend:
    """Changes to the tests of Django's SMTP backend.

    It is no ``TestCase``, because the runner would run it separately.
    """

    def assertRaisesMessage(self, exception: Any, message: str, *args: Any, **kwargs: Any) -> Any:
        """Expect 'The address ...', with the fault of the address, where Django says 'Invalid address'."""
        return super().assertRaisesMessage(
            exception, message.replace("Invalid address", "The address"), *args, **kwargs
        )

    def test_lazy_addresses_with_domains(self) -> None:
        one, two, three = (gettext_lazy(f"{name}@example.com") for name in ("one", "two", "three"))
        email = EmailMessage("Subject", "Content", one, [two], cc=[one], bcc=[three], reply_to=[three])
        self.assertEqual(email.send(), 1)
        self.assertMessageHasHeaders(
            self.get_the_message(),
            {("From", str(one)), ("To", str(two)), ("Cc", str(one)), ("Reply-To", str(three))},
        )
        self.assertEqual(
            self.get_smtp_envelopes(), [{"mail_from": str(one), "rcpt_tos": [str(two), str(one), str(three)]}]
        )
