"""References and passwords, which share one field.

A reference is the name of a kind, a colon, and the rest: ``env:SMTP_PASSWORD``. Only known kinds make a reference. A
backslash at the beginning makes any text a password again, so every password is possible.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from email_integration import conf
from email_integration.secrecy import with_secrets

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise as Text

#: The kinds that need no provider from the project.
BUILT_IN = ("env", "file", "aws-secretsmanager")

KIND = r"[a-z][a-z0-9-]*"
_LIKE_ONE = re.compile(rf"({KIND}):(.+)", re.DOTALL)
_ESCAPED = re.compile(rf"\\+{KIND}:")
_TO_BE_ESCAPED = re.compile(rf"\\*{KIND}:")


@dataclass(frozen=True)
class Reference:
    """``kind`` and ``name`` of a secret that is stored elsewhere."""

    kind: str
    # Hidden from repr(): it may be a password that looks like a reference.
    name: str = field(repr=False)

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


def kinds() -> tuple[str, ...]:
    """Return the known kinds of references: built-in ones, and those of SECRET_PROVIDERS and SECRET_REFERENCES."""
    named = (str(pattern).partition(":") for pattern in conf.get("SECRET_REFERENCES"))
    return tuple(
        dict.fromkeys((*BUILT_IN, *conf.get("SECRET_PROVIDERS"), *(kind for kind, colon, _ in named if colon)))
    )


@with_secrets
def parse(text: str) -> Reference | str:
    """Return ``text`` as a reference if it is one, otherwise as a password."""
    if _ESCAPED.match(text):
        return text[1:]
    found = _LIKE_ONE.fullmatch(text)
    return Reference(found[1], found[2]) if found and found[1] in kinds() else text


@with_secrets
def as_password(password: str) -> str:
    """Return the text to store for a password, whatever it begins with."""
    return f"\\{password}" if _TO_BE_ESCAPED.match(password) else password


@with_secrets
def unknown(text: str) -> Text | None:
    """Return an error message for a text that looks like a reference of an unknown kind; None for all others.

    A project without SECRET_REFERENCES uses no references, so the text is a password.
    """
    found = _LIKE_ONE.fullmatch(text)
    if not conf.get("SECRET_REFERENCES") or not found or found[1] in kinds():
        return None
    return format_lazy(
        _(
            "“{kind}:” is not a known kind of reference ({kinds}). If the text is a password, put a backslash in "
            "front of it."
        ),
        kind=found[1],
        kinds=", ".join(f"{kind}:" for kind in kinds()),
    )
