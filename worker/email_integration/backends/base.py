"""What both backends have in common: mail goes through the active SMTP configuration and nothing else."""

from __future__ import annotations

from typing import Any

import django
from django.core.exceptions import ImproperlyConfigured
from django.core.mail.backends.base import BaseEmailBackend

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
