"""How many logins have failed of late: counted in the shared cache, and by each process while that is out of reach.

Time is cut into windows. Whoever has used up the attempts of one waits for the next, and whatever anybody does
meanwhile makes that no later: nobody is kept out for longer than a window, and only from the address that failed.
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

#: Seconds.
WINDOW = 300
#: Wrong passwords for one user name from one address, and from one address whatever the names.
OF_NAME, OF_ADDRESS = 5, 50

#: Characters of a name that are looked at: no user name is longer, and normalising makes each of them up to 18.
_LONGEST = 254

#: What a proxy may write instead of an address alone: with its port, quoted, in brackets.
_BRACKETED = re.compile(r'"?\[([^]]*)](?::\d{0,5})?"?')
_WITH_PORT = re.compile(r'"?([^:]*):\d{0,5}"?')

#: Where addresses of IPv4 lie in IPv6 for networks that have no other (RFC 6052 §2.1).
_TRANSLATED = ip_network("64:ff9b::/96")

#: Instead of the shared cache. Whoever tries many names to have old counts thrown out is stopped by OF_ADDRESS before.
_OF_THIS_PROCESS = LocMemCache("admin_auth", {"OPTIONS": {"MAX_ENTRIES": 100_000}})


@dataclass(frozen=True, kw_only=True)
class LoginAttempt:
    """One login.

    Args:
        name: the user name, as it was typed.
        address: where it came from, by ``address_of``.
        account: whose name it is, by ``account_of``.
    """

    name: str
    address: str
    account: str = ""

    def begin(self) -> int:
        """Count the attempt, before its password is looked at; give the seconds to wait, 0 when there is no need."""
        now = time()
        window = int(now // WINDOW)
        # Of an address with too many, no more names are counted.
        if _count(self._of_address(window)) > OF_ADDRESS or max(map(_count, self._of_names(window))) > OF_NAME:
            return math.ceil((window + 1) * WINDOW - now)
        return 0

    def succeed(self) -> None:
        """Take the attempt back, for its password was right, and those for the same name with it."""
        window = int(time() // WINDOW)
        for counts in (cache, _OF_THIS_PROCESS):
            try:
                counts.delete_many(self._of_names(window))
                counts.decr(self._of_address(window))
            except Exception:  # noqa: S110 - out of reach, by whatever error its client has; or nothing was counted there
                pass

    def _of_names(self, window: int) -> list[str]:
        """For what was typed, and for whom that names, however it is spelled."""
        account = [_key(window, self.address, "account", self.account)] if self.account else []
        return [_key(window, self.address, _plain(self.name)), *account]

    def _of_address(self, window: int) -> str:
        return _key(window, self.address)


def _plain(name: str) -> str:
    """A name as the user model has it, in small letters: databases and back ends differ about the case."""
    if len(name) > _LONGEST:
        return name  # Django does not normalise it either, and lets no user in by it
    normalized = get_user_model().normalize_username
    return str(normalized(normalized(name.strip()).casefold())).strip()


def account_of(name: str) -> str:
    """Whose name that is to the database, which may know spellings that are not known here; '' where it finds none."""
    model = get_user_model()
    if len(name) > _LONGEST or "\0" in name:  # PostgreSQL breaks off a transaction for it
        return ""
    try:
        found = model._default_manager.get_by_natural_key(model.normalize_username(name.strip()))
    except Exception:  # there is none; or a user model of the project finds them in its own way, and has its own errors
        return ""
    return str(found.pk)


def _key(window: int, *parts: str) -> str:
    """What somebody typed is of any length and nobody's business."""
    return f"admin_auth:{window}:{hashlib.sha256(repr(parts).encode()).hexdigest()}"


def _count(key: str) -> int:
    try:
        return _counted(cache, key)
    except Exception:  # each backend has errors of its own
        return _counted(_OF_THIS_PROCESS, key)


def _counted(counts: BaseCache, key: str) -> int:
    counts.add(key, 0, WINDOW)
    return counts.incr(key)


def address_of(request: HttpRequest) -> str:
    """Where a request comes from: with BEHIND_TLS as the proxy says, which adds the last of X-Forwarded-For.

    Of IPv6 the network, as a host with one address has them all; or the address of IPv4 that it stands for.
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
    """The address in what a proxy or a server says of one, with a port or without; None where there is none."""
    text = text.strip()
    found = _BRACKETED.fullmatch(text) or _WITH_PORT.fullmatch(text)
    try:
        return ip_address(found[1] if found else text.strip('"'))
    except ValueError:
        return None
