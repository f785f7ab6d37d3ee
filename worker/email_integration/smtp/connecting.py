"""A TCP connection to one of the addresses of a host, in the time that all of them have together."""

from __future__ import annotations

import errno
import itertools
import re
import socket
import time
from typing import Any

#: Seconds that an attempt has at least, however many addresses there are (RFC 8305 §8).
_LEAST = 0.1

#: What ``getaddrinfo`` gives for each address: family, type, protocol, canonical name, address.
_Found = tuple[Any, Any, int, str, Any]

_IN_BRACKETS = re.compile(r"\[(?:IPv6:)?(.*)\]", re.I)


def connect(host: str, port: int, timeout: float) -> socket.socket:
    """Connect to the first address of ``host`` that takes the connection, within ``timeout`` seconds for all of them.

    IPv6 and IPv4 have their turns (RFC 8305 §4), one after the other: a server that counts connections sees no more
    than are used. Each address has an equal share of the time that is left. Resolving the name counts, though it
    cannot be cut short. Raises the ``OSError`` that says most of why there is no connection, and ``ValueError`` or
    ``OverflowError`` for what cannot be a host or a port.
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
    raise max(errors, key=_rank, default=socket.gaierror(socket.EAI_NONAME, "the name has no address"))


def bare(host: str) -> str:
    """Return ``host`` without the brackets that an IPv6 address has in a URL or a mail address."""
    found = _IN_BRACKETS.fullmatch(host)
    return found[1] if found else host


def tls_name(host: str) -> str:
    """Return the name that the certificate of ``host`` must have: no brackets, no zone, no dot at its end."""
    return bare(host).partition("%")[0].removesuffix(".")


def in_turn(found: list[_Found]) -> list[_Found]:
    """Return the addresses, each once, with the families alternating; the resolver's first comes first."""
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
    """How much an error says: an answer more than silence, and silence more than the lack of a way there."""
    if isinstance(error, ConnectionRefusedError):
        return 4
    if isinstance(error, TimeoutError):
        return 2
    if error.errno == errno.EHOSTUNREACH:
        return 1
    # What a machine without IPv6, or without IPv4, says of every address of that family.
    return 0 if error.errno in (errno.ENETUNREACH, errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) else 3
