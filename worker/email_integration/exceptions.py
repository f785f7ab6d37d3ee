"""Every exception that callers of this app may see.

``EmailIntegrationError``
    ``InvalidMail``            the mail cannot be sent as it was given (raised in the caller)
    ``DeliveryFailed``         a delivery ended without being accepted
    ``DeliveryDeferred``       a delivery was put off; it is kept and tried again
    ``NotSent``                a mail that was to be sent at once was not; nothing is kept of it
    ``SecretUnreadable``       a sealed password cannot be opened with the keys at hand
        ``SecretMisplaced``    it was sealed for another row or another field
    ``SecretUnavailable``      a secret that is kept elsewhere cannot be had (now)
    ``ContentUnavailable``     the stored content of a mail cannot be read (now, or any more)
    ``ContentGone``            the same, as it is kept no longer

What the SMTP dialogue itself raises is in ``email_integration.smtp.errors``.
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
    """Something went wrong while handling a mail."""


# A BadHeaderError, and so a ValueError, for code that catches what Django's documentation tells it to.
class InvalidMail(EmailIntegrationError, BadHeaderError):
    """The mail cannot be sent as it was given."""


#: What says nothing about the mail that is at hand: there is no memory, no database, or no time left for the task.
_OF_NO_MAIL = (MemoryError, OperationalError, InterfaceError, SoftTimeLimitExceeded)

#: Characters of another's words in an error.
_LONGEST_REASON = 200


def refusal(what: str, error: Exception) -> InvalidMail:
    """Return the ``InvalidMail`` for an ``error`` that something handed in has raised; ``what`` went wrong.

    Raises ``error`` itself where it is one already, or where the mail is not to blame for it.
    """
    if isinstance(error, (InvalidMail, *_OF_NO_MAIL)):
        raise error
    try:
        why = str(error)[:_LONGEST_REASON] or type(error).__name__
    except Exception:  # it quotes what cannot be quoted
        why = type(error).__name__
    return InvalidMail(f"{what}: {why}")


class DeliveryDeferred(EmailIntegrationError):
    """The mail could not be delivered now; it is kept and tried again."""

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.code} {self.reason}" if self.code else self.reason


class DeliveryFailed(EmailIntegrationError):
    """The mail was not accepted and is not tried again.

    ``code`` is the server's reply code (RFC 5321 §4.2), or None when no reply decided it; ``reason`` is our
    own words, without address and without the server's text; ``status`` is the delivery's final state.
    """

    def __init__(self, code: int | None, reason: str, status: str = "failed") -> None:
        super().__init__(code, reason, status)
        self.code = code
        self.reason = reason
        self.status = status

    def __str__(self) -> str:
        return f"{self.status}: {self.code} {self.reason}" if self.code else f"{self.status}: {self.reason}"


class NotSent(EmailIntegrationError, smtplib.SMTPException):
    """The mail was not sent, and nothing is kept of it.

    Raised by the direct backend, and a ``SMTPException`` for the sake of code written for Django's own. ``status`` is
    'failed', 'deferred' (it could go another time) or 'in_doubt' (the server may have it).
    """

    def __init__(self, code: int | None, reason: str, status: str = "failed") -> None:
        super().__init__(code, reason, status)
        # OSError, which SMTPException is, would take three arguments for its own and drop one.
        self.args = (code, reason, status)
        self.code = code
        self.reason = reason
        self.status = status

    def __str__(self) -> str:
        return f"{self.status}: {self.code} {self.reason}" if self.code else f"{self.status}: {self.reason}"


class SecretUnreadable(EmailIntegrationError):
    """A sealed password cannot be opened with the keys in SMTP_PASSWORD_KEYS."""


class SecretMisplaced(SecretUnreadable):
    """A sealed value was copied from another row or another field."""


class SecretUnavailable(SecretUnreadable):
    """A secret that is kept elsewhere cannot be had."""


class ContentUnavailable(EmailIntegrationError):
    """The stored content of a mail cannot be read."""


class ContentGone(ContentUnavailable):
    """The content of the mail is kept no longer."""
