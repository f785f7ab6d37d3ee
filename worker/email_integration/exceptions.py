"""Every exception that callers of this app may see.

``EmailIntegrationError``
    ``InvalidMail``            the mail cannot be sent as it was given (raised in the caller)
    ``DeliveryFailed``         a delivery ended without being accepted
    ``DeliveryDeferred``       a delivery was put off; it is kept and tried again
    ``SecretUnreadable``       a sealed password cannot be opened with the keys at hand

What the SMTP dialogue itself raises is in ``email_integration.smtp.errors``.
"""

from __future__ import annotations


class EmailIntegrationError(Exception):
    """Something went wrong while handling a mail."""


class InvalidMail(EmailIntegrationError, ValueError):
    """The mail cannot be sent as it was given."""


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


class SecretUnreadable(EmailIntegrationError):
    """A sealed password cannot be opened with the keys in SMTP_PASSWORD_KEYS."""
