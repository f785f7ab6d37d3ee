"""What both backends have in common: mail goes through the active SMTP configuration and nothing else."""

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

#: What an entry of MAILERS says of a server. It is the fallback, and is read where that is looked for.
_OF_THE_SERVER = frozenset(
    {"host", "port", "username", "password", "use_tls", "use_ssl", "timeout", "ssl_keyfile", "ssl_certfile"}
)


class ActiveConfigBackend(BaseEmailBackend):
    """Takes no credentials per call; ``alias`` and what else Django 6.1 gives are passed on."""

    def __init__(self, fail_silently: bool = False, *, alias: str | None = None, **options: Any) -> None:
        """Refuse credentials given per call: they belong into a configuration, where they are sealed."""
        # With MAILERS, Django mixes what a call gives into the entry's OPTIONS, and says here what that was.
        per_call = options if alias is None else options.get("_ignore_unknown_kwargs") or ()
        if any(name in per_call and options.get(name) for name in ("username", "password")):
            raise ImproperlyConfigured(
                f"{type(self).__module__} takes no user name or password per call (auth_user, auth_password): "
                "mail goes through the active SMTP configuration. Leave them out."
            )
        others = {name: value for name, value in options.items() if name not in _OF_THE_SERVER}
        if alias is not None:
            others["alias"] = alias
        if django.VERSION < (6, 1):  # from there on it refuses what it does not know
            others["fail_silently"] = fail_silently
        super().__init__(**others)
        self.fail_silently = fail_silently

    @sync_only("Sending by this backend", instead="email_integration.asend_email() or sync_to_async(send_mail)()")
    @with_secrets
    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Take the messages and return how many were taken; what is raised otherwise is said by each backend.

        With ``fail_silently`` an error of the database is not raised but logged: Django mails errors that way, and the
        page that says that something broke must not break itself.
        """
        with recursion.within_mail() as goes_on:
            return self._take(email_messages) if goes_on else 0

    def _take(self, messages: Iterable[EmailMessage]) -> int:
        """Do it; each backend in its way."""
        raise NotImplementedError

    def _say_lost(self, error: Exception) -> None:
        """Log what a mail that is to fail silently has failed for."""
        away = isinstance(error, DatabaseError | InterfaceError)
        why = f"the database failed ({type(error).__name__})" if away else str(error)
        logger.error("Mail that was to fail silently is lost: %s.", why.rstrip("."))


#: What ``fail_silently`` is for beside a mail that cannot be sent: the database is away, or there is no key.
BORNE = (DatabaseError, InterfaceError, ImproperlyConfigured)
