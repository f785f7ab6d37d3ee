"""Errors in SECRET_REFERENCES and SECRET_PROVIDERS, described for the system checks."""

from __future__ import annotations

import re
from typing import Any

from django.utils.module_loading import import_string

from email_integration import conf

from .bounds import is_never_given
from .parsing import BUILT_IN, KIND


def wrong_with_pattern(pattern: Any) -> str:
    """Return the error of one pattern in SECRET_REFERENCES, or ''."""
    kind, colon, name = pattern.partition(":") if isinstance(pattern, str) else ("", "", "")
    if not (colon and name):
        return "does not have the form kind:name"
    if kind not in (*BUILT_IN, *conf.get("SECRET_PROVIDERS")):
        return f"is of the kind {kind!r}, which is neither built in nor in SECRET_PROVIDERS"
    if is_never_given(name):
        return "names a key or a database of the project, or a process, which is never sent to a server"
    if kind == "file" and not (name.startswith("/") and not {"", ".", ".."} & set(name.split("/")[1:])):
        return "is not an absolute path without '..'"
    return ""


def wrong_with_provider(kind: Any, path: Any) -> str:
    """Return the error of one entry in SECRET_PROVIDERS, or ''."""
    if not isinstance(kind, str) or not re.fullmatch(KIND, kind):
        return "is not a valid kind: use lower-case letters, digits and hyphens, beginning with a letter"
    if kind in BUILT_IN:
        return "is a built-in kind, which cannot be replaced"
    try:
        provider = import_string(path)
    except Exception as error:  # any error of a module at its import
        return f"cannot be imported ({type(error).__name__})"
    return "" if callable(getattr(provider, "resolve", None)) else "has no method 'resolve'"
