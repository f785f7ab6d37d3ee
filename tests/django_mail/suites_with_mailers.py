"""Django's test classes with one of our backends in place of Django's, for Django's own test runner.

For Django 6.1 and later, where most classes run twice: with MAILERS, and without, as older projects are configured.
"""

from __future__ import annotations

import email.errors
import unittest
from unittest import mock

# Django's tests import this error for Python 3.15, which raises it. The first releases of Python 3.12 lack it.
if not hasattr(email.errors, "HeaderWriteError"):
    email.errors.HeaderWriteError = type("HeaderWriteError", (email.errors.MessageError,), {})

import mail.test_backends
import mail.test_deprecated
import mail.test_handler
import mail.test_sendtestemail
import mail.tests

from .completeness import Completeness
from .same_bytes import SameBytes
from .through import OURS, LikeTheSMTPBackend, ThroughOurs, ToDjangosServer, ToOutbox, leaving_out


@leaving_out
class EmailMessageTests(SameBytes, ToOutbox, mail.tests.EmailMessageTests):
    pass


@leaving_out
class EmailMessageWithMailersTests(SameBytes, ToOutbox, mail.tests.EmailMessageTestsWithMailers):
    pass


@leaving_out
class SendMailTests(SameBytes, ToOutbox, mail.tests.SendMailTests):
    pass


@leaving_out
class SendMailWithMailersTests(SameBytes, ToOutbox, mail.tests.SendMailTestsWithMailers):
    pass


@leaving_out
class SendMassMailTests(SameBytes, ToOutbox, mail.tests.SendMassMailTests):
    pass


@leaving_out
class SendMassMailWithMailersTests(SameBytes, ToOutbox, mail.tests.SendMassMailTestsWithMailers):
    pass


@leaving_out
class AdminsAndManagersTests(SameBytes, ToOutbox, mail.tests.MailAdminsAndManagersTests):
    pass


@leaving_out
class AdminsAndManagersWithMailersTests(SameBytes, ToOutbox, mail.tests.MailAdminsAndManagersTestsWithMailers):
    pass


@leaving_out
class GetConnectionTests(ThroughOurs, mail.tests.GetConnectionTests):
    pass


@leaving_out
class PositionalArgumentsTests(ThroughOurs, mail.tests.MailDeprecatedPositionalArgsTests):
    pass


class GlobalStateTests(mail.tests.PythonGlobalState):
    """The app is installed and must not change Python's global state either."""


@leaving_out
class SMTPTests(LikeTheSMTPBackend, ToDjangosServer, mail.test_backends.SMTPBackendTests):
    djangos_module = mail.test_backends
    backend_class = OURS.EmailBackend


@leaving_out
class StoppedServerTests(ToDjangosServer, mail.test_backends.SMTPBackendStoppedServerTests):
    djangos_module = mail.test_backends


@leaving_out
class OutboxTests(ToOutbox, mail.test_backends.LocmemBackendTests):
    backend_class = OURS.EmailBackend

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.enterClassContext(mock.patch.object(mail.test_backends, "locmem", OURS))


@leaving_out
class HandlerTests(mail.test_handler.MailersTests):
    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        # Each test sets MAILERS with Django's backends.
        cls.enterClassContext(mock.patch("django.core.mail.backends.locmem.EmailBackend", OURS.EmailBackend))


@leaving_out
class SendTestEmailTests(ToOutbox, mail.test_sendtestemail.SendTestEmailManagementCommand):
    pass


@leaving_out
class CompatibilityTests(SameBytes, mail.test_deprecated.DeprecatedCompatibilityTests):
    pass


class CompletenessTests(Completeness, unittest.TestCase):
    ours = globals()
    djangos = [
        mail.tests,
        mail.test_backends,
        mail.test_deprecated,
        mail.test_handler,
        mail.test_sendtestemail,
    ]
