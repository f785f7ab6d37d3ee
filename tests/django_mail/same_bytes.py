"""Messages that Django's tests only build are sent too, and arrive exactly as Django's SMTP backend sends them."""

# ruff: noqa: PT009, PT027 - not for pytest, but for Django's runner

from __future__ import annotations

import copy
from typing import Any
from unittest import mock

import django
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.backends.smtp import EmailBackend as DjangosBackend

from tests.made_up import made_up_alike

from .left_out import NOT_THE_SAME
from .through import ThroughOurs, default_backend

if django.VERSION >= (6, 0):
    BadHeaderError = ValueError  # its base class, which Django raises from 6.0 on
else:
    from django.core.mail import BadHeaderError


class SameBytes(ThroughOurs):
    """Compares each message whose ``message()`` a test has called, at the end of the test."""

    maxDiff = None
    compared = 0

    @classmethod
    def tearDownClass(cls) -> None:
        super().tearDownClass()
        if not cls.compared:
            raise AssertionError("no message was compared")

    def setUp(self) -> None:
        super().setUp()
        built: list[EmailMessage] = []
        render = EmailMessage.message

        def message(email: EmailMessage, *args: Any, **kwargs: Any) -> Any:
            built.append(email)
            return render(email, *args, **kwargs)

        recording = mock.patch.object(EmailMessage, "message", message)
        recording.start()
        self.addCleanup(self._compare, built)
        self.addCleanup(recording.stop)

    def _compare(self, built: list[EmailMessage]) -> None:
        # Messages sent here must not reach the outbox of the test.
        with mock.patch.object(self.server, "on_message", None):
            for email in {id(email): email for email in built}.values():
                type(self).compared += 1
                with_recipient = copy.copy(email)
                with_recipient.bcc = [*email.bcc, "kim@example.com"]
                with self.subTest("sent as by Django", subject=email.subject):
                    if self._testMethodName in NOT_THE_SAME:
                        with self.assertRaises((self.failureException, ValueError)):
                            self._compare_sent(with_recipient)
                    else:
                        self._compare_sent(with_recipient)

    def _compare_sent(self, email: EmailMessage) -> None:
        alias = {"alias": "djangos"} if django.VERSION >= (6, 1) else {}
        djangos = DjangosBackend(host=self.server.host, port=self.server.port, **alias)
        try:
            expected = self._sent(email, djangos)
        except ValueError as error:
            with self.assertRaises(BadHeaderError if isinstance(error, BadHeaderError) else ValueError):
                self._sent(email, default_backend())
        else:
            for _ in range(2):  # the first error of a kind may come from Django's rendering, and the second from ours
                self.assertEqual(self._sent(email, default_backend()), expected)

    def _sent(self, email: EmailMessage, backend: BaseEmailBackend) -> tuple[str, tuple[str, ...], bytes]:
        """Return sender, recipients and content as they arrive."""
        self.server.messages.clear()
        with made_up_alike():
            backend.send_messages([email])
        (arrived,) = self.server.messages
        return arrived.mail_from, arrived.rcpt_tos, arrived.content
