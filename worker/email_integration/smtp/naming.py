"""The name that this machine sends in EHLO (RFC 5321 §4.1.4)."""

from __future__ import annotations

import functools
import re
import socket
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address

#: Maximum length of a domain in characters, dots included (RFC 1035 §2.3.4, without the octets of the wire format).
_LONGEST_DOMAIN = 253
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
#: At least one dot, and a letter in the last label: '192.0.2.1' is an address, which needs brackets.
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+(?=[a-z0-9-]*[a-z]){_LABEL}", re.I | re.A)
#: Names that identify no machine to another one: localhost (RFC 6761 §6.3), the name that installers invent, and the
#: name that a resolver makes of an address without a name.
_OF_NO_MACHINE = re.compile(r"localhost\d?(\..*)?|.*\.(localhost|localdomain\d?|arpa)", re.I)
#: The name for a machine that has neither a name nor an address.
NAMELESS = "[127.0.0.1]"

_LITERAL = re.compile(r"\[(IPv6:)?([0-9a-f.:]+)\]", re.I | re.A)


def is_domain(text: str) -> bool:
    """Return whether ``text`` is a fully qualified domain name that other machines may know (RFC 5321 §4.1.2)."""
    return len(text) <= _LONGEST_DOMAIN and bool(_DOMAIN.fullmatch(text)) and not _OF_NO_MACHINE.fullmatch(text)


def is_address_literal(text: str) -> bool:
    """Return whether ``text`` is an address literal such as '[192.0.2.1]' or '[IPv6:2001:db8::1]' (RFC 5321 §4.1.3)."""
    found = _LITERAL.fullmatch(text)
    if found is None:
        return False
    try:
        IPv6Address(found[2]) if found[1] else IPv4Address(found[2])
    except AddressValueError:
        return False
    return True


def name_for(sock: socket.socket, *, wanted: str = "") -> str:
    """Return the name to send over ``sock``: ``wanted``, else this host's full name, else the socket's own address.

    Only a domain or an address literal is ever sent. The address is the one of this connection: a host may have several
    addresses, and the server may see only one of them.
    """
    if is_domain(wanted) or is_address_literal(wanted):
        return wanted
    return host_name() or _literal_of(sock)


@functools.cache
def host_name() -> str:
    """Return this host's full name, or '' when it has none that may be sent.

    The name is looked up once per process: otherwise a slow resolver would delay every session.
    """
    try:
        name = socket.getfqdn().removesuffix(".")
    except (OSError, UnicodeError):  # Python's resolver raises for a host name that is not possible in the DNS
        return ""
    return name if is_domain(name) else ""


def _literal_of(sock: socket.socket) -> str:
    try:
        # Without the zone of a link-local address, which means nothing to another machine.
        address: IPv4Address | IPv6Address | None = ip_address(str(sock.getsockname()[0]).partition("%")[0])
    except (OSError, ValueError, IndexError):  # closed meanwhile, or not an internet socket
        address = None
    if isinstance(address, IPv6Address):
        mapped = address.ipv4_mapped
        return f"[{mapped}]" if mapped else f"[IPv6:{address}]"
    return f"[{address}]" if address else NAMELESS
