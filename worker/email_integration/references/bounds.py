"""Which references are allowed: SECRET_REFERENCES, so that a page of the admin cannot read any file or variable."""

from __future__ import annotations

import os
import re
from fnmatch import fnmatchcase

from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from email_integration import conf
from email_integration.exceptions import SecretUnavailable

from .parsing import Reference

#: What opens other things than a mail server, by its name: only who names it in full may have it.
_KEYS = re.compile(r"SECRET_?KEY|KEYS?(\.\w+)?$", re.IGNORECASE)
_WILD = re.compile(r"[*?\[]")


def allow(reference: Reference) -> None:
    """Return if ``reference`` is allowed. Raises ``SecretUnavailable``."""
    if not patterns_for(reference):
        raise SecretUnavailable(
            format_lazy(
                _(
                    "A text that begins with “{kind}:” refers to a secret that is kept elsewhere, and "
                    "SECRET_REFERENCES does not allow this one. If it is a password that begins so, put a backslash in "
                    "front of it."
                ),
                kind=reference.kind,
            )
        )


def patterns_for(reference: Reference) -> list[str]:
    """The patterns of SECRET_REFERENCES that allow it."""
    text = str(reference)
    given = conf.get("SECRET_REFERENCES")
    if text in given:
        return [text] if _is_plain(reference) else []
    if is_of_a_key(reference.name):
        return []
    return [pattern for pattern in given if _is_plain(reference) and _fits(reference, pattern)]


def is_of_a_key(name: str) -> bool:
    """Whether what is called so opens other things, such as SECRET_KEY and SMTP_PASSWORD_KEYS."""
    return bool(_KEYS.search(name.replace("-", "_")))


def folder(pattern: str) -> str:
    """The folder, its links resolved, out of which no file of ``pattern`` may lead."""
    parts = pattern.removeprefix("file:").split("/")[:-1]
    wild = next((at for at, part in enumerate(parts) if _WILD.search(part)), len(parts))
    return os.path.realpath("/".join(parts[:wild]) or "/")


def _is_plain(reference: Reference) -> bool:
    """Whether its name is written in the one way that patterns can be compared with: an absolute path without dots."""
    name = reference.name
    if reference.kind != "file":
        return True
    return name.startswith("/") and not name.startswith("//") and "\0" not in name and os.path.normpath(name) == name


def _fits(reference: Reference, pattern: str) -> bool:
    if reference.kind != "file":
        return fnmatchcase(str(reference), pattern)
    # Part by part: a '*' stands for no folders.
    names, parts = str(reference).split("/"), pattern.split("/")
    return len(names) == len(parts) and all(map(fnmatchcase, names, parts))
