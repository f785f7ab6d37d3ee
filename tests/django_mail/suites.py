"""Django's test classes with one of our backends in place of Django's, for Django's own test runner.

For Django 5.2 and 6.0; ``suites_with_mailers`` has those of 6.1.
"""

from __future__ import annotations

import unittest
from unittest import mock

import django
import mail.test_sendtestemail
import mail.tests

from .completeness import Completeness
from .same_bytes import SameBytes
from .through import OURS, LikeTheSMTPBackend, ThroughOurs, ToDjangosServer, ToOutbox, leaving_out

DJANGOS_MODULES = [mail.tests, mail.test_sendtestemail]


@leaving_out
class RenderingTests(SameBytes, mail.tests.MailTests):
    pass


@leaving_out
class TimeZoneTests(SameBytes, mail.tests.MailTimeZoneTests):
    pass


class GlobalStateTests(mail.tests.PythonGlobalState):
    """The app is installed and must not change Python's global state either."""


@leaving_out
class SMTPTests(LikeTheSMTPBackend, ToDjangosServer, mail.tests.SMTPBackendTests):
    djangos_module = mail.tests


@leaving_out
class StoppedServerTests(ToDjangosServer, mail.tests.SMTPBackendStoppedServerTests):
    djangos_module = mail.tests


@leaving_out
class OutboxTests(ToOutbox, mail.tests.LocmemBackendTests):
    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.enterClassContext(mock.patch.object(mail.tests, "locmem", OURS))


@leaving_out
class SendTestEmailTests(ToOutbox, mail.test_sendtestemail.SendTestEmailManagementCommand):
    pass


if django.VERSION >= (6, 0):
    import mail.test_deprecated

    DJANGOS_MODULES.append(mail.test_deprecated)

    @leaving_out
    class PositionalArgumentsTests(ThroughOurs, mail.tests.MailDeprecatedPositionalArgsTests):
        pass

    @leaving_out
    class CompatibilityTests(SameBytes, mail.test_deprecated.DeprecatedCompatibilityTests):
        pass


class CompletenessTests(Completeness, unittest.TestCase):
    ours = globals()
    djangos = DJANGOS_MODULES
