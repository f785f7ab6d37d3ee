"""The providers of secrets: environment variables, files, AWS, and those that SECRET_PROVIDERS adds."""

from __future__ import annotations

import os
import stat
from typing import Protocol

from django.utils.module_loading import import_string
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from email_integration import conf
from email_integration.exceptions import SecretUnavailable

from . import bounds
from .aws import SecretsManager
from .parsing import Reference

#: Maximum size of a password in octets.
LARGEST = 64 * 1024


class Provider(Protocol):
    """The interface of a class in SECRET_PROVIDERS; it is called without arguments, once for each secret that is read.

    ``resolve`` receives the text after the colon and returns the secret. It runs in a separate thread. It may raise
    ``SecretUnavailable`` with a text without secrets, which is shown; of any other exception only the name is shown.
    """

    def resolve(self, reference: str) -> str: ...


class Environment:
    """``env:NAME``."""

    def resolve(self, reference: str) -> str:
        value = os.environ.get(reference, "")
        if not value:
            raise SecretUnavailable(format_lazy(_("The environment variable {name} is not set."), name=reference))
        return value


class File:
    """``file:/path``, where no link may lead out of the allowed folder."""

    def resolve(self, reference: str) -> str:
        if not hasattr(os, "O_NOFOLLOW"):
            raise SecretUnavailable(
                _("On Windows, passwords cannot be read from a file. Use an environment variable: env:NAME.")
            )
        path = os.path.realpath(reference)
        folders = {bounds.folder(pattern) for pattern in bounds.patterns_for(Reference("file", reference))}
        within = any(path.startswith(f"{folder.rstrip('/')}/") for folder in folders)
        named = f"file:{reference}" in conf.get("SECRET_REFERENCES")
        of_a_key = bounds.is_never_given(path) or path in bounds.files_never_given()
        if not within or of_a_key or (bounds.is_of_a_key(path) and not named):
            text = _("{name} leads to a file that SECRET_REFERENCES does not allow.")
            raise SecretUnavailable(format_lazy(text, name=reference))
        try:
            # Follow no link that was made meanwhile; and do not wait for the writer of a pipe.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb") as file:
                regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
                content = file.read(LARGEST + 1) if regular else b""
        except OSError:
            text = _("The file {name} does not exist or cannot be read.")
            raise SecretUnavailable(format_lazy(text, name=reference)) from None
        try:
            value = content.decode()
        except UnicodeDecodeError:
            value = ""
        if not value.strip() or len(content) > LARGEST:
            text = _("{name} contains no password: it is empty, not text, or larger than {largest} octets.")
            raise SecretUnavailable(format_lazy(text, name=reference, largest=LARGEST))
        return value


def provider_of(kind: str) -> Provider:
    """Return the provider of a kind of references. Raises ``SecretUnavailable``."""
    if kind == "env":
        return Environment()
    if kind == "file":
        return File()
    if kind == "aws-secretsmanager":
        return SecretsManager()
    path = conf.get("SECRET_PROVIDERS").get(kind)
    if path is None:
        raise SecretUnavailable(format_lazy(_("SECRET_PROVIDERS has no provider for “{kind}:”."), kind=kind))
    made: Provider = import_string(path)()
    return made
