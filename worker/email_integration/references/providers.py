"""Where secrets are kept: variables of the environment, files, AWS, and what SECRET_PROVIDERS adds."""

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

#: More octets than this are no password.
LARGEST = 64 * 1024


class Provider(Protocol):
    """What a class in SECRET_PROVIDERS is; it is called without arguments, once for each secret that is read.

    ``resolve`` gets what stands after the colon and returns the secret. It may raise ``SecretUnavailable`` with words
    that hold no secret, which are shown; of any other exception only the name is. It runs in a thread of its own.
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
    """``file:/path``, which leads out of the allowed folder by no link."""

    def resolve(self, reference: str) -> str:
        if not hasattr(os, "O_NOFOLLOW"):
            raise SecretUnavailable(_("On Windows no password is read from a file: write env: and a name."))
        path = os.path.realpath(reference)
        folders = {bounds.folder(pattern) for pattern in bounds.patterns_for(Reference("file", reference))}
        within = any(path.startswith(f"{folder.rstrip('/')}/") for folder in folders)
        named = f"file:{reference}" in conf.get("SECRET_REFERENCES")
        of_a_key = bounds.is_never_given(path) or path in bounds.files_never_given()
        if not within or of_a_key or (bounds.is_of_a_key(path) and not named):
            text = _("{name} leads to a file that SECRET_REFERENCES does not allow.")
            raise SecretUnavailable(format_lazy(text, name=reference))
        try:
            # Not a link put there meanwhile; and no waiting for whoever writes into a pipe.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb") as file:
                regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
                content = file.read(LARGEST + 1) if regular else b""
        except OSError:
            text = _("There is no file {name}, or it cannot be read here.")
            raise SecretUnavailable(format_lazy(text, name=reference)) from None
        try:
            value = content.decode()
        except UnicodeDecodeError:
            value = ""
        if not value.strip() or len(content) > LARGEST:
            text = _("{name} holds no password: it is empty, no text, or larger than {largest} octets.")
            raise SecretUnavailable(format_lazy(text, name=reference, largest=LARGEST))
        return value


def provider_of(kind: str) -> Provider:
    """The provider of a kind of references. Raises ``SecretUnavailable``."""
    if kind == "env":
        return Environment()
    if kind == "file":
        return File()
    if kind == "aws-secretsmanager":
        return SecretsManager()
    path = conf.get("SECRET_PROVIDERS").get(kind)
    if path is None:
        raise SecretUnavailable(format_lazy(_("SECRET_PROVIDERS names nobody who knows “{kind}:”."), kind=kind))
    made: Provider = import_string(path)()
    return made
