"""The rules for allowed references: SECRET_REFERENCES, so a page of the admin cannot read any file or variable."""

from __future__ import annotations

import os
import re
from fnmatch import fnmatchcase

from django.conf import settings
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from email_integration import conf
from email_integration.exceptions import SecretUnavailable
from email_integration.secrecy import with_secrets

from .parsing import Reference

#: Names of secrets that give access to other things than a mail server: they are allowed only by their full name ...
_KEYS = re.compile(r"KEYS?(_FILE|\.\w+)?$|(?<![^_./])KEYS?(?![^_./])", re.IGNORECASE)
#: ... and names of secrets for sealed values, sessions and databases, with or without a suffix: they are never allowed.
_STORES = "DB|DATABASE|POSTGRES|POSTGRESQL|MYSQL|MARIADB|REDIS|VALKEY|BROKER|RABBITMQ|AMQP"
_NEVER = re.compile(
    rf"SECRET_?KEY|PASSWORD_?KEY|(?<![^_])(PG|{_STORES})_?(\w+_)?PASS(WORD)?(?![^_])"
    rf"|(?<![^_])({_STORES})_?(\w+_)?(URL|URI|DSN)",
    re.IGNORECASE,
)
#: The folder where Linux shows the processes, with the whole environment of each.
_PROCESSES = re.compile(r"/+proc(/|$)")
#: Minimum length of a key that is searched for within a longer text; a shorter one may occur by chance.
_LONG = 20
#: A URL with a password, as databases and brokers have.
_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*://[^\s/@]*:[^\s/@]+@\S+\s*", re.IGNORECASE)
_WILD = re.compile(r"[*?\[]")


@with_secrets
def allow(reference: Reference) -> None:
    """Return if ``reference`` is allowed. Raises ``SecretUnavailable`` if it is not."""
    if not patterns_for(reference):
        raise SecretUnavailable(
            format_lazy(
                _(
                    "A text that begins with “{kind}:” refers to a secret that is stored elsewhere, and "
                    "SECRET_REFERENCES does not allow this reference. If the text is a password, put a backslash in "
                    "front of it."
                ),
                kind=reference.kind,
            )
        )


def patterns_for(reference: Reference) -> list[str]:
    """Return the patterns of SECRET_REFERENCES that allow ``reference``."""
    text = str(reference)
    given = conf.get("SECRET_REFERENCES")
    if is_never_given(reference.name):
        return []
    if text in given:
        return [text] if _is_plain(reference) else []
    if is_of_a_key(reference.name):
        return []
    return [pattern for pattern in given if _is_plain(reference) and _fits(reference, pattern)]


def is_of_a_key(name: str) -> bool:
    """Return whether a secret of this name gives access to other things, such as TLS_KEY and AWS_SECRET_ACCESS_KEY."""
    return is_never_given(name) or bool(_KEYS.search(name.replace("-", "_")))


def is_never_given(name: str) -> bool:
    """Return whether a name is of a key for sealed values or a database, such as SMTP_PASSWORD_KEYS and DATABASE_URL.

    The same holds for a file in a folder of such a name, or among the processes of this machine.
    """
    parts = (re.sub(r"[^A-Za-z0-9]+", "_", part) for part in name.split("/"))
    return bool(_PROCESSES.match(name)) or any(map(_NEVER.search, parts))


def files_never_given() -> set[str]:
    """Return the files, with links resolved, that such variables name: ``SMTP_PASSWORD_KEYS_FILE`` and others."""
    names = [name for name in os.environ if name.upper().endswith("_FILE") and is_never_given(name)]
    return {os.path.realpath(os.environ[name]) for name in names if os.environ[name]}


@with_secrets
def opens_this_project(secret: str) -> bool:
    """Return whether a text is, or contains, a key for this project's sealed values, or is a database URL."""
    keys = [
        *conf.get("SMTP_PASSWORD_KEYS"),
        settings.SECRET_KEY,
        *settings.SECRET_KEY_FALLBACKS,
    ]
    texts = [key.decode("latin-1") if isinstance(key, bytes) else str(key) for key in keys]
    found = any(key == secret.strip() or (len(key) >= _LONG and key in secret) for key in texts if key)
    return found or _ADDRESS.fullmatch(secret) is not None


def folder(pattern: str) -> str:
    """Return the folder, with links resolved, that every file of ``pattern`` must be in."""
    parts = pattern.removeprefix("file:").split("/")[:-1]
    wild = next((at for at, part in enumerate(parts) if _WILD.search(part)), len(parts))
    return os.path.realpath("/".join(parts[:wild]) or "/")


def _is_plain(reference: Reference) -> bool:
    """Return whether the name has the form that patterns can be compared with: an absolute path without dots."""
    name = reference.name
    if reference.kind != "file":
        return True
    return name.startswith("/") and not name.startswith("//") and "\0" not in name and os.path.normpath(name) == name


def _fits(reference: Reference, pattern: str) -> bool:
    if reference.kind != "file":
        return fnmatchcase(str(reference), pattern)
    # Compare part by part: a '*' matches no '/'.
    names, parts = str(reference).split("/"), pattern.split("/")
    return len(names) == len(parts) and all(map(fnmatchcase, names, parts))
