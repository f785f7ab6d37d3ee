"""What both backends have in common: mail goes through the active SMTP configuration and nothing else."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.mail.backends.base import BaseEmailBackend


class ActiveConfigBackend(BaseEmailBackend):
    """Takes no credentials."""

    def __init__(
        self, fail_silently: bool = False, username: str | None = None, password: str | None = None, **kwargs: Any
    ) -> None:
        """Refuse credentials given per call: they belong into a configuration, where they are sealed."""
        if username or password:
            raise ImproperlyConfigured(
                f"{type(self).__module__} takes no user name or password per call (auth_user, auth_password): "
                "mail goes through the active SMTP configuration. Leave them out."
            )
        super().__init__(fail_silently=fail_silently, **kwargs)
