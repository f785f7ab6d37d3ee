"""Count failed logins in the shared cache, or in each process while the cache cannot be reached.

Time is divided into windows. A client that has used up the attempts of one window waits for the next. Further attempts
do not extend the wait: a lockout lasts at most one window, and applies only to the address that failed.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from time import time

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.locmem import LocMemCache
from django.http import HttpRequest

#: Length of a window, in seconds.
WINDOW = 300
#: Wrong passwords per window: for one user name from one address, and from one address for all names.
OF_NAME, OF_ADDRESS = 5, 50

#: Longest name that is normalised, in characters. No user name is longer. Normalising can yield 18 for each.
_LONGEST = 254

#: Forms that a proxy may write instead of a plain address: with a port, quoted, in brackets.
_BRACKETED = re.compile(r'"?\[([^]]*)](?::\d{0,5})?"?')
_WITH_PORT = re.compile(r'"?([^:]*):\d{0,5}"?')

#: IPv4 addresses embedded in IPv6, for IPv6-only networks (RFC 6052 §2.1).
_TRANSLATED = ip_network("64:ff9b::/96")

#: Used without the shared cache. A client that tries many names to evict old counts reaches OF_ADDRESS first.
_OF_THIS_PROCESS = LocMemCache("admin_auth", {"OPTIONS": {"MAX_ENTRIES": 100_000}})


@dataclass(frozen=True, kw_only=True)
class LoginAttempt:
    """One login.

    Args:
        name: the user name, as it was typed.
        address: the client's address, from ``address_of``.
        account: the id of the user, from ``account_of``.
    """

    name: str
    address: str
    account: str = ""

    def begin(self) -> int:
        """Count the attempt, before the password is checked, and return the seconds to wait, or 0."""
        now = time()
        window = int(now // WINDOW)
        # Once an address exceeds its limit, its further names are not counted.
        if _count(self._of_address(window)) > OF_ADDRESS or max(map(_count, self._of_names(window))) > OF_NAME:
            return math.ceil((window + 1) * WINDOW - now)
        return 0

    def succeed(self) -> None:
        """Remove this attempt, because its password was right, and earlier attempts for the same name."""
        window = int(time() // WINDOW)
        for counts in (cache, _OF_THIS_PROCESS):
            try:
                counts.delete_many(self._of_names(window))
                counts.decr(self._of_address(window))
            except Exception:  # noqa: S110 - the cache client raises its own errors, or the count is missing
                pass

    def _of_names(self, window: int) -> list[str]:
        """Return the keys of the typed name, and of its account, which may have several spellings."""
        account = [_key(window, self.address, "account", self.account)] if self.account else []
        return [_key(window, self.address, _plain(self.name)), *account]

    def _of_address(self, window: int) -> str:
        return _key(window, self.address)


def _plain(name: str) -> str:
    """Return the name as the user model normalises it, in lower case: databases and backends differ about case."""
    if len(name) > _LONGEST:
        return name  # Django does not normalise it either, and accepts no login with it
    normalized = get_user_model().normalize_username
    return str(normalized(normalized(name.strip()).casefold())).strip()


def account_of(name: str) -> str:
    """Return the user's id by the database, which may accept other spellings; '' if there is no such user."""
    model = get_user_model()
    if len(name) > _LONGEST or "\0" in name:  # PostgreSQL aborts the transaction for a NUL
        return ""
    try:
        found = model._default_manager.get_by_natural_key(model.normalize_username(name.strip()))
    except Exception:  # no such user; or a custom user model with its own lookup and errors
        return ""
    return str(found.pk)


def _key(window: int, *parts: str) -> str:
    """Return a hashed key: the typed name has any length and is private."""
    return f"admin_auth:{window}:{hashlib.sha256(repr(parts).encode()).hexdigest()}"


def _count(key: str) -> int:
    try:
        return _counted(cache, key)
    except Exception:  # each backend has its own errors
        return _counted(_OF_THIS_PROCESS, key)


def _counted(counts: BaseCache, key: str) -> int:
    counts.add(key, 0, WINDOW)
    return counts.incr(key)


def address_of(request: HttpRequest) -> str:
    """Return the client's address; with BEHIND_TLS the last entry of X-Forwarded-For, which the proxy adds.

    For IPv6 this is the network, because a host has all its addresses, or the embedded IPv4 address.
    """
    forwarded = request.headers.get("X-Forwarded-For", "") if settings.SECURE_PROXY_SSL_HEADER else ""
    address = _parsed(forwarded.rpartition(",")[2]) or _parsed(str(request.META.get("REMOTE_ADDR", "")))
    if address is None:
        return ""
    if isinstance(address, IPv6Address):
        translated = IPv4Address(int(address) & 0xFFFFFFFF) if address in _TRANSLATED else None
        stands_for = address.ipv4_mapped or address.sixtofour or translated
        return str(stands_for or ip_network((int(address), 64), strict=False))
    return str(address)


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address in ``text``, with or without a port, or None."""
    text = text.strip()
    found = _BRACKETED.fullmatch(text) or _WITH_PORT.fullmatch(text)
    try:
        return ip_address(found[1] if found else text.strip('"'))
    except ValueError:
        return None
