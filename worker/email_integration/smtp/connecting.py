"""A TCP connection to one of the addresses of a host, with one timeout for all of them."""

from __future__ import annotations

import errno
import itertools
import re
import socket
import time
from typing import Any

#: Minimum time for each attempt, in seconds, however many addresses there are (RFC 8305 §8).
_LEAST = 0.1

#: The result of ``getaddrinfo`` for one address: family, type, protocol, canonical name, address.
_Found = tuple[Any, Any, int, str, Any]

_IN_BRACKETS = re.compile(r"\[(?:IPv6:)?(.*)\]", re.I)


def connect(host: str, port: int, timeout: float) -> socket.socket:
    """Connect to the first address of ``host`` that accepts the connection, within ``timeout`` seconds for all of them.

    IPv6 and IPv4 addresses alternate (RFC 8305 §4), one after the other: a server that counts connections sees only the
    ones that are used. Each address gets an equal share of the remaining time. Resolving the name counts, although it
    cannot be interrupted. Raises the ``OSError`` that explains best why there is no connection, and ``ValueError`` or
    ``OverflowError`` for an impossible host or port.
    """
    until = time.monotonic() + timeout
    addresses = in_turn(socket.getaddrinfo(bare(host), port, type=socket.SOCK_STREAM))
    errors: list[OSError] = []
    for number, address in enumerate(addresses):
        left = until - time.monotonic()
        if left <= 0:
            errors.append(TimeoutError("timed out"))
            break
        share = max(left / (len(addresses) - number), min(left, _LEAST))
        try:
            return _connected(address, share)
        except OSError as error:
            errors.append(error)
    raise max(errors, key=_rank, default=socket.gaierror(socket.EAI_NONAME, "the host name has no IP address"))


def bare(host: str) -> str:
    """Return ``host`` without the brackets around an IPv6 address in a URL or a mail address."""
    found = _IN_BRACKETS.fullmatch(host)
    return found[1] if found else host


def tls_name(host: str) -> str:
    """Return the name that the certificate of ``host`` must have: without brackets, zone, or a dot at its end."""
    return bare(host).partition("%")[0].removesuffix(".")


def in_turn(found: list[_Found]) -> list[_Found]:
    """Return the addresses without duplicates, the families alternating; the resolver's first address comes first."""
    addresses = list(dict.fromkeys(found))
    families = dict.fromkeys(family for family, *_ in addresses)
    lines = [[address for address in addresses if address[0] == family] for family in families]
    return [address for turn in itertools.zip_longest(*lines) for address in turn if address is not None]


def _connected(found: _Found, timeout: float) -> socket.socket:
    family, kind, protocol, _, address = found
    sock = socket.socket(family, kind, protocol)
    try:
        sock.settimeout(timeout)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _rank(error: OSError) -> int:
    """Return how informative an error is: an answer is more than silence, and silence more than the lack of a route."""
    if isinstance(error, ConnectionRefusedError):
        return 4
    if isinstance(error, TimeoutError):
        return 2
    if error.errno == errno.EHOSTUNREACH:
        return 1
    # The error of every address of a family, IPv6 or IPv4, that the machine does not have.
    return 0 if error.errno in (errno.ENETUNREACH, errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) else 3
