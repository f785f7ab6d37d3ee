"""The mail settings of a project, for the Django in use: ``MAILERS`` from 6.1 on, ``EMAIL_*`` before."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import django
from django.conf import settings
from django.core import mail
from django.test import override_settings

HAS_MAILERS = django.VERSION >= (6, 1)

#: The reason for which mail cannot be sent if the settings name no server.
NO_SERVER = "MAILERS has no SMTP server with a host" if HAS_MAILERS else "EMAIL_HOST is not set"

#: The hint for a wrong server in the settings.
CORRECT = "Correct MAILERS." if HAS_MAILERS else "Correct the EMAIL_* settings."

QUEUED = "email_integration.backends.queued.EmailBackend"

#: The older setting of each option of MAILERS.
EMAIL_NAMES = {
    "host": "EMAIL_HOST",
    "port": "EMAIL_PORT",
    "username": "EMAIL_HOST_USER",
    "password": "EMAIL_HOST_PASSWORD",
    "use_tls": "EMAIL_USE_TLS",
    "use_ssl": "EMAIL_USE_SSL",
    "timeout": "EMAIL_TIMEOUT",
}


def of_mail(backend: str = QUEUED, **server: Any) -> dict[str, Any]:
    """Return settings that name the backend and, by MAILERS' options, the server."""
    if HAS_MAILERS:
        return {"MAILERS": {"default": {"BACKEND": backend, "OPTIONS": server}}}
    return {"EMAIL_BACKEND": backend, **{EMAIL_NAMES[option]: value for option, value in server.items()}}


def name_server(project: Any, *, backend: str = QUEUED, **server: Any) -> None:
    """Set this server, and no other, in ``project``, the ``settings`` of pytest-django."""
    for name, value in of_mail(backend, **server).items():
        setattr(project, name, value)


def make_backend(path: str = QUEUED, **options: Any) -> Any:
    """Create a backend as a project does: by an entry of ``MAILERS``, or by ``get_connection()``."""
    if not HAS_MAILERS:
        return mail.get_connection(path, **options)
    with override_settings(MAILERS={"made": {"BACKEND": path, "OPTIONS": options}}):
        return mail.mailers["made"]


@contextlib.contextmanager
def older_settings(**server: Any) -> Iterator[None]:
    """Use EMAIL_* settings inside the block. Django 6.1 still accepts them, with its own warning to the project."""
    override = override_settings(**{EMAIL_NAMES[option]: value for option, value in server.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        override.enable()
        if hasattr(settings, "MAILERS"):
            del settings.MAILERS
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            override.disable()
