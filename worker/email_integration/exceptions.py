"""Every exception that callers of this app may see.

``EmailIntegrationError``
    ``InvalidMail``            the mail cannot be sent as it was given (raised in the caller)
    ``DeliveryFailed``         a delivery ended without being accepted
    ``DeliveryDeferred``       a delivery was postponed; it is kept and tried again
    ``NotSent``                a mail to be sent directly was not sent; nothing of it is kept
    ``SecretUnreadable``       a sealed password cannot be decrypted with the configured keys
    ``SecretMisplaced``        the same, because it was sealed for another row or another field
    ``SecretUnavailable``      a secret that is stored elsewhere cannot be read (now)
    ``ContentUnavailable``     the stored content of a mail cannot be read (now, or any more)
    ``ContentGone``            the same, because the content is no longer kept

The exceptions of the SMTP dialogue are in ``email_integration.smtp.errors``.
"""

from __future__ import annotations

import smtplib

import django
from billiard.exceptions import SoftTimeLimitExceeded
from django.db import InterfaceError, OperationalError

if django.VERSION >= (6, 0):
    BadHeaderError = ValueError  # its base class, which Django raises from 6.0 on
else:
    from django.core.mail import BadHeaderError


class EmailIntegrationError(Exception):
    """The base class of this app's exceptions."""


# Also a BadHeaderError, and so a ValueError, for code that catches the exception that Django documents.
class InvalidMail(EmailIntegrationError, BadHeaderError):
    """The mail cannot be sent as it was given."""


#: Errors that say nothing about the mail: no memory, no database, or no time left for the task.
_OF_NO_MAIL = (MemoryError, OperationalError, InterfaceError, SoftTimeLimitExceeded)

#: Maximum number of characters of another exception's text in an error.
_LONGEST_REASON = 200


def refusal(what: str, error: Exception) -> InvalidMail:
    """Return the ``InvalidMail`` for an ``error`` of an object that the caller passed; ``what`` says what went wrong.

    Raises ``error`` itself if it is an ``InvalidMail``, or if the mail is not the cause of it.
    """
    if isinstance(error, (InvalidMail, *_OF_NO_MAIL)):
        raise error
    try:
        why = str(error)[:_LONGEST_REASON] or type(error).__name__
    except Exception:  # the text of the error cannot be made
        why = type(error).__name__
    return InvalidMail(f"{what}: {why}")


class DeliveryDeferred(EmailIntegrationError):
    """The mail could not be delivered now; it is kept and tried again.

    ``code`` is the server's reply code (RFC 5321 §4.2), or None when the cause is not a reply; ``reason`` is this app's
    description.
    """

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.code} {self.reason}" if self.code else self.reason


class DeliveryFailed(EmailIntegrationError):
    """The mail was not accepted and is not tried again.

    ``code`` is the server's reply code (RFC 5321 §4.2), or None when the cause is not a reply; ``reason`` is this app's
    description, without addresses and without the server's text; ``status`` is the delivery's final status.
    """

    def __init__(self, code: int | None, reason: str, status: str = "failed") -> None:
        super().__init__(code, reason, status)
        self.code = code
        self.reason = reason
        self.status = status

    def __str__(self) -> str:
        return f"{self.status}: {self.code} {self.reason}" if self.code else f"{self.status}: {self.reason}"


class NotSent(EmailIntegrationError, smtplib.SMTPException):
    """The mail was not sent, and nothing of it is kept.

    Raised by the direct backend. It is a ``SMTPException`` for code written for Django's own backend. ``status`` is
    'failed', 'deferred' (a later attempt may succeed) or 'in_doubt' (the server may have it).
    """

    def __init__(self, code: int | None, reason: str, status: str = "failed") -> None:
        super().__init__(code, reason, status)
        # OSError, the base of SMTPException, would interpret three arguments itself and drop one.
        self.args = (code, reason, status)
        self.code = code
        self.reason = reason
        self.status = status

    def __str__(self) -> str:
        return f"{self.status}: {self.code} {self.reason}" if self.code else f"{self.status}: {self.reason}"


class SecretUnreadable(EmailIntegrationError):
    """A sealed password cannot be decrypted with the keys in SMTP_PASSWORD_KEYS."""


class SecretMisplaced(SecretUnreadable):
    """A sealed value was copied from another row or another field."""


class SecretUnavailable(SecretUnreadable):
    """A secret that is stored elsewhere cannot be read."""


class ContentUnavailable(EmailIntegrationError):
    """The stored content of a mail cannot be read."""


class ContentGone(ContentUnavailable):
    """The content of the mail is no longer kept."""
