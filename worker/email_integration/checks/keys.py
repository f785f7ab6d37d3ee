"""Check the keys of EMAIL_INTEGRATION, one by one and against each other."""

from __future__ import annotations

import math
import os
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured

from email_integration import conf, fields
from email_integration.sending import sandbox

#: Folders, which settings often give as ``pathlib.Path``.
_PATHS = frozenset({"JOURNAL_DIR"})


@register("email_integration")
def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """Check the keys of EMAIL_INTEGRATION one by one, then against each other."""
    given = getattr(settings, "EMAIL_INTEGRATION", {})
    if not isinstance(given, dict):
        return [Error("EMAIL_INTEGRATION must be a dictionary.", id="email_integration.E001")]
    unknown = [
        Error(
            f"EMAIL_INTEGRATION contains {key!r}, which is not a valid key.",
            hint=f"Valid keys are {', '.join(sorted(conf.DEFAULTS))}.",
            id="email_integration.E002",
        )
        for key in sorted(set(given) - set(conf.DEFAULTS), key=str)
    ]
    wrong = {key: must_be for key in conf.DEFAULTS if (must_be := wrong_with(key, conf.get(key)))}
    found: list[CheckMessage] = [
        *unknown,
        *(
            Error(f"EMAIL_INTEGRATION[{key!r}] must be {must_be}.", id="email_integration.E007")
            for key, must_be in wrong.items()
        ),
    ]
    if not wrong.keys() & {"LEASE", "REPLY_TIMEOUT"} and conf.get("LEASE") <= conf.get("REPLY_TIMEOUT"):
        found.append(
            Error(
                "EMAIL_INTEGRATION['LEASE'] must be longer than REPLY_TIMEOUT.",
                hint="Otherwise a second worker may send a mail while the first still waits for the server's reply.",
                id="email_integration.E003",
            )
        )
    if conf.get("IN_DOUBT") not in ("resend", "hold"):
        found.append(Error("EMAIL_INTEGRATION['IN_DOUBT'] must be 'resend' or 'hold'.", id="email_integration.E004"))
    found += [
        Error(f"EMAIL_INTEGRATION[{longest!r}] must not be shorter than {first}.", id="email_integration.E008")
        for first, longest in conf.BACKOFFS
        if not wrong.keys() & {first, longest} and conf.get(longest) < conf.get(first)
    ]
    return [*found, *_check_keys(), *_check_recipients(), *_check_cache()]


def wrong_with(key: str, value: Any) -> str:
    """Return what the value of ``key`` must be, by the type of its default, or '' if the value is valid."""
    match conf.DEFAULTS[key]:
        case bool():
            return "" if isinstance(value, bool) else "True or False"
        case int():
            least = 0 if key in conf.MAY_BE_ZERO else 1
            good = isinstance(value, int) and not isinstance(value, bool) and value >= least
            return "" if good else f"a whole number, {least} or more"
        case float():
            zero = key in conf.MAY_BE_ZERO
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            good = number and (value > 0 or (value == 0 and zero))
            return "" if good else f"a number of seconds, {'zero or more' if zero else 'more than zero'}"
        case list():
            return "" if isinstance(value, list | tuple) else "a list"
        case dict():
            return "" if isinstance(value, dict) else "a dictionary"
        case _ if key in _PATHS:
            return "" if isinstance(value, str | os.PathLike) else "text, or a path"
        case _:
            return "" if isinstance(value, str) else "text"


def _check_keys() -> list[CheckMessage]:
    try:
        fields.keys()
    except ImproperlyConfigured as error:
        # A project can start without a key, except where each mail must be encrypted.
        harmless = settings.DEBUG and not conf.get("SMTP_PASSWORD_KEYS") and not conf.get("ENCRYPT_CONTENT")
        kind = Warning if harmless else Error
        return [kind(str(error), id="email_integration.E005")]
    return []


def _check_recipients() -> list[CheckMessage]:
    found: list[CheckMessage] = []
    parsed = []
    for key, parse in (("REDIRECT_ALL_TO", sandbox.redirections), ("ALLOWED_RECIPIENTS", sandbox.permissions)):
        try:
            parsed.append(parse(conf.get(key)))
        except ImproperlyConfigured as error:
            found.append(
                Error(str(error), hint="No mail is sent until this is corrected.", id="email_integration.E009")
            )
    if found:
        return found
    redirect_to, allowed = parsed
    return [
        Error(
            f"{address} in EMAIL_INTEGRATION['REDIRECT_ALL_TO'] is not in ALLOWED_RECIPIENTS, so it receives no mail.",
            id="email_integration.E010",
        )
        for address in sandbox.plan(redirect_to, allowed=allowed).withheld
    ]


def _check_cache() -> list[CheckMessage]:
    alias = conf.get("CACHE")
    backend = str(settings.CACHES.get(alias, {}).get("BACKEND", "")) if isinstance(alias, str) else ""
    if not backend:
        return [Error(f"CACHES has no {alias!r}, which EMAIL_INTEGRATION['CACHE'] names.", id="email_integration.E006")]
    if backend.endswith((".LocMemCache", ".DummyCache")):
        return [
            Warning(
                f"The cache {alias!r} ({backend}) is not shared between processes.",
                hint="Workers use a changed SMTP configuration only after CONFIG_CACHE_TTL seconds. "
                "Use Redis, Memcached or the database cache.",
                id="email_integration.W001",
            )
        ]
    return []
