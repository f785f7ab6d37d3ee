"""Secrets that are kept elsewhere: what refers to them, which of them may be had, and how they are had."""

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
