"""Secrets that are stored elsewhere: the form of references, the rules that allow them, and their lookup."""

from .bounds import allow
from .parsing import Reference, as_password, parse
from .secret_cache import check, forget, renew, resolve
from .settings import wrong_with_pattern, wrong_with_provider

__all__ = [
    "Reference",
    "allow",
    "as_password",
    "check",
    "forget",
    "parse",
    "renew",
    "resolve",
    "wrong_with_pattern",
    "wrong_with_provider",
]
