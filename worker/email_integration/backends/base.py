"""The common part of both backends: mail is sent only through the active SMTP configuration."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import django
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.db import DatabaseError, InterfaceError

from email_integration import recursion
from email_integration.async_safety import sync_only
from email_integration.secrecy import with_secrets

logger = logging.getLogger(__name__)

#: Options of MAILERS that describe a server. They are the fallback configuration, which other code reads.
_OF_THE_SERVER = frozenset(
    {"host", "port", "username", "password", "use_tls", "use_ssl", "timeout", "ssl_keyfile", "ssl_certfile"}
)


class ActiveConfigBackend(BaseEmailBackend):
    """A backend without credentials per call. ``alias`` and further options of Django 6.1 are passed on."""

    def __init__(self, fail_silently: bool = False, *, alias: str | None = None, **options: Any) -> None:
        """Create the backend. Raises ``ImproperlyConfigured`` for credentials given per call.

        Credentials belong in a configuration, where they are encrypted.
        """
        # With MAILERS, Django merges the arguments of a call into the entry's OPTIONS, and lists them here.
        per_call = options if alias is None else options.get("_ignore_unknown_kwargs") or ()
        if any(name in per_call and options.get(name) for name in ("username", "password")):
            raise ImproperlyConfigured(
                f"{type(self).__module__} accepts no user name or password per call (auth_user, auth_password): "
                "mail is sent through the active SMTP configuration. Remove them."
            )
        others = {name: value for name, value in options.items() if name not in _OF_THE_SERVER}
        if alias is not None:
            others["alias"] = alias
        if django.VERSION < (6, 1):  # later versions refuse unknown options
            others["fail_silently"] = fail_silently
        super().__init__(**others)
        self.fail_silently = fail_silently

    @sync_only("Sending by this backend", instead="email_integration.asend_email() or sync_to_async(send_mail)()")
    @with_secrets
    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Take the messages and return how many were taken. Each backend documents its errors.

        With ``fail_silently`` a database error is logged and not raised: Django mails error reports in this way, and
        the error page must not fail itself.
        """
        with recursion.within_mail() as goes_on:
            return self._take(email_messages) if goes_on else 0

    def _take(self, messages: Iterable[EmailMessage]) -> int:
        """Take the messages. Each backend implements this."""
        raise NotImplementedError

    def _say_lost(self, error: Exception) -> None:
        """Log the error of a mail that fails silently."""
        away = isinstance(error, DatabaseError | InterfaceError)
        why = f"the database failed ({type(error).__name__})" if away else str(error)
        logger.error("A mail with fail_silently=True is lost: %s.", why.rstrip("."))


#: Errors that ``fail_silently`` suppresses besides invalid mail: the database is down, or there is no key.
BORNE = (DatabaseError, InterfaceError, ImproperlyConfigured)
