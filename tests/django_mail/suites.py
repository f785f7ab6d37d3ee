"""Django's test classes with one of our backends in the place of Django's, for Django's own test runner."""

# ruff: noqa: PT009 - not for pytest, but for Django's runner

from __future__ import annotations

import unittest
from types import SimpleNamespace
from typing import Any
from unittest import mock

import mail.test_sendtestemail
import mail.tests
from django.core.mail import EmailMessage
from django.utils.module_loading import import_string
from django.utils.translation import gettext_lazy

from .left_out import CLASSES_LEFT_OUT, LEFT_OUT
from .same_bytes import SameBytes
from .through import BACKEND, ThroughOurs, ToOutbox, leaving_out

OURS = SimpleNamespace(EmailBackend=import_string(BACKEND))


@leaving_out
class RenderingTests(SameBytes, mail.tests.MailTests):
    pass


@leaving_out
class TimeZoneTests(SameBytes, mail.tests.MailTimeZoneTests):
    pass


class GlobalStateTests(mail.tests.PythonGlobalState):
    """The app is installed, and has polluted nothing either."""


@leaving_out
class SMTPTests(ThroughOurs, mail.tests.SMTPBackendTests):
    @classmethod
    def start_server(cls) -> int:
        return int(cls.smtp_controller.port)

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.enterClassContext(mock.patch.object(mail.tests, "smtp", OURS))

    def assertRaisesMessage(self, exception: Any, message: str, *args: Any, **kwargs: Any) -> Any:
        """Where Django says 'Invalid address', we say 'The address ...' and what is wrong with it."""
        return super().assertRaisesMessage(
            exception, message.replace("Invalid address", "The address"), *args, **kwargs
        )

    def test_lazy_addresses_with_domains(self) -> None:
        one, two, three = (gettext_lazy(f"{name}@example.com") for name in ("one", "two", "three"))
        email = EmailMessage("Subject", "Content", one, [two], [three], cc=[one], reply_to=[three])
        self.assertEqual(email.send(), 1)
        self.assertMessageHasHeaders(
            self.get_the_message(),
            {("From", str(one)), ("To", str(two)), ("Cc", str(one)), ("Reply-To", str(three))},
        )
        self.assertEqual(
            self.get_smtp_envelopes(), [{"mail_from": str(one), "rcpt_tos": [str(two), str(one), str(three)]}]
        )


@leaving_out
class StoppedServerTests(ThroughOurs, mail.tests.SMTPBackendStoppedServerTests):
    @classmethod
    def start_server(cls) -> int:
        return int(cls.smtp_controller.port)

    @classmethod
    def setUpClass(cls) -> None:
        with mock.patch.object(mail.tests, "smtp", OURS):
            super().setUpClass()


@leaving_out
class OutboxTests(ToOutbox, mail.tests.LocmemBackendTests):
    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.enterClassContext(mock.patch.object(mail.tests, "locmem", OURS))


@leaving_out
class SendTestEmailTests(ToOutbox, mail.test_sendtestemail.SendTestEmailManagementCommand):
    pass


class CompletenessTests(unittest.TestCase):
    def test_each_class_of_djangos_is_run_or_left_out(self) -> None:
        run = {base for cls in _test_cases_of(globals()) for base in cls.__mro__}
        theirs = [cls for module in (mail.tests, mail.test_sendtestemail) for cls in _test_cases_of(vars(module))]
        self.assertEqual({cls.__name__ for cls in theirs if cls not in run}, set(CLASSES_LEFT_OUT))

    def test_each_test_that_is_left_out_is_there(self) -> None:
        there = {name for cls in _test_cases_of(globals()) for name in dir(cls)}
        self.assertEqual(set(LEFT_OUT) - there, set())


def _test_cases_of(names: dict[str, Any]) -> list[type[unittest.TestCase]]:
    return [value for value in names.values() if isinstance(value, type) and issubclass(value, unittest.TestCase)]
