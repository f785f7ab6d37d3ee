"""What Django's tests build without sending it is sent too, and arrives just as Django's SMTP backend sends it."""

# ruff: noqa: PT009, PT027 - not for pytest, but for Django's runner

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any
from unittest import mock

from django.core import mail
from django.core.mail import BadHeaderError, EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.backends.smtp import EmailBackend as DjangosBackend

from .through import ThroughOurs


class SameBytes(ThroughOurs):
    """Compares each message whose ``message()`` a test has called, when the test is over."""

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
        djangos = DjangosBackend(host=self.server.host, port=self.server.port)
        for email in {id(email): email for email in built}.values():
            type(self).compared += 1
            to_somebody = copy.copy(email)
            to_somebody.bcc = [*email.bcc, "kim@example.com"]
            with self.subTest("sent as by Django", subject=email.subject), _made_up_alike():
                try:
                    expected = self._sent(to_somebody, djangos)
                except ValueError as error:
                    with self.assertRaises(BadHeaderError if isinstance(error, BadHeaderError) else ValueError):
                        self._sent(to_somebody, mail.get_connection())
                else:
                    self.assertEqual(self._sent(to_somebody, mail.get_connection()), expected)

    def _sent(self, email: EmailMessage, backend: BaseEmailBackend) -> tuple[str, tuple[str, ...], bytes]:
        """Sender, recipients and content as they arrive."""
        self.server.messages.clear()
        backend.send_messages([email])
        (arrived,) = self.server.messages
        return arrived.mail_from, arrived.rcpt_tos, arrived.content


@contextlib.contextmanager
def _made_up_alike() -> Iterator[None]:
    """Fix what is made up for each message: Message-ID, Date, and the boundaries between parts."""
    with (
        mock.patch("django.core.mail.message.make_msgid", return_value="<1@example.com>"),
        mock.patch("django.core.mail.message.formatdate", return_value="Thu, 01 Jan 2026 00:00:00 -0000"),
        mock.patch("email.generator.random.randrange", return_value=1),
    ):
        yield
