"""What can be wrong with SECRET_REFERENCES and SECRET_PROVIDERS, in words for the system checks."""

from __future__ import annotations

import re
from typing import Any

from django.utils.module_loading import import_string

from email_integration import conf

from .bounds import is_never_given
from .parsing import BUILT_IN, KIND


def wrong_with_pattern(pattern: Any) -> str:
    """What is wrong with one of SECRET_REFERENCES; '' when nothing is."""
    kind, colon, name = pattern.partition(":") if isinstance(pattern, str) else ("", "", "")
    if not (colon and name):
        return "is no kind of reference with a colon and a name"
    if kind not in (*BUILT_IN, *conf.get("SECRET_PROVIDERS")):
        return f"is of the kind {kind!r}, which SECRET_PROVIDERS does not name"
    if is_never_given(name):
        return "names a key or a database of the project, or a process, which is never given to a server"
    if kind == "file" and not (name.startswith("/") and not {"", ".", ".."} & set(name.split("/")[1:])):
        return "is no absolute path without '..'"
    return ""


def wrong_with_provider(kind: Any, path: Any) -> str:
    """What is wrong with one of SECRET_PROVIDERS; '' when nothing is."""
    if not isinstance(kind, str) or not re.fullmatch(KIND, kind):
        return "is of no kind that can stand before a colon: small letters, digits and hyphens"
    if kind in BUILT_IN:
        return "is of a kind that there is already"
    try:
        provider = import_string(path)
    except Exception as error:  # whatever a module does when it is imported
        return f"cannot be imported ({type(error).__name__})"
    return "" if callable(getattr(provider, "resolve", None)) else "has no method 'resolve'"
