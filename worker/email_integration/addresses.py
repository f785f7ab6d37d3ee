"""Mail addresses as MAIL and RCPT take them."""

from __future__ import annotations

import re
from email import utils
from email.errors import MessageError
from email.headerregistry import Address

from .exceptions import InvalidMail

#: What the standard library may take for a line break in a header, and what has no place in one.
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]")

#: In the place of a sender's address: there is none, and no bounce is sent (RFC 5321 §4.5.5).
NULL_SENDER = "<>"

#: The strict parser of newer Pythons takes no address literal (RFC 5321 §4.1.3), and older Pythons have none. What it
#: refuses for safety, ``_parsed`` looks for.
_LENIENTLY: dict[str, bool] = {"strict": False} if getattr(utils, "supports_strict_parsing", False) else {}

_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")

#: A domain in ASCII, or an address literal (RFC 5321 §4.1.3).
_DOMAIN = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f.:ipv]+\]")

_PLAIN_ADDRESS = r"[a-z0-9_+-]{1,64}(?:\.[a-z0-9_+-]+)*@[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})+"

#: What nearly all addresses look like: nothing in them has to be taken apart, and nothing can be wrong but a length.
_PLAIN = re.compile(rf"(?:(?:[a-z0-9]+ )+<({_PLAIN_ADDRESS})>|({_PLAIN_ADDRESS}))", re.I | re.A)


def envelope_address(text: str) -> str:
    """Return the bare address in ``text`` ('Name <address>' or the address alone), its domain in ASCII.

    Raises ``InvalidMail`` for anything that RFC 5321 §4.1.2, or RFC 6531 §3.3 for a local part beyond ASCII, does not
    let into MAIL or RCPT.
    """
    if not isinstance(text, str):
        raise InvalidMail(f"An address must be text, not {type(text).__name__}.")
    plain = _PLAIN.fullmatch(text)
    if plain is not None:
        address = plain[1] or plain[2]
        if address.index("@") <= 64 and len(address) <= 256:
            return address
    return _parsed(text)


def addresses_in(text: str) -> list[str]:
    """Return the addresses in a header's text, as they are written; alike on each Python."""
    return [address for _name, address in utils.getaddresses([text], **_LENIENTLY)]


def _parsed(text: str) -> str:
    """The address in any text, or the reason why there is none."""
    if CONTROL.search(text):
        raise InvalidMail(f"The address {text!r} holds a line break or another control character.")
    found = addresses_in(text)
    # The parser drops blanks and comments inside of an address: that would be another one than was written.
    if len(found) != 1 or not found[0] or found[0] not in text:
        raise InvalidMail(
            f"The address {text!r} cannot be parsed; write 'user@example.com' or 'Name <user@example.com>'."
        )
    given = found[0].rpartition("@")[0]
    try:
        # The standard library takes no letters beyond ASCII there: parsed with others in their places.
        address = Address(addr_spec=_BEYOND_ASCII.sub("x", given) + found[0][len(given) :])
        domain = address.domain.encode("idna").decode("ascii")
    except (MessageError, ValueError, IndexError) as error:
        raise InvalidMail(f"The address {text!r} cannot be parsed: {error}") from error
    local = address.addr_spec.rpartition("@")[0] if given.isascii() else given
    if not local or not domain or any(character <= " " or character == "\x7f" for character in found[0]):
        raise InvalidMail(f"The address {text!r} is not complete; write 'user@example.com'.")
    if not _DOMAIN.fullmatch(domain.lower()):
        raise InvalidMail(f"The address {text!r} cannot be parsed: {domain!r} is not a domain.")
    if len(local.encode()) > 64 or len(domain) > 255:
        raise InvalidMail(f"The address {text!r} is longer than RFC 5321 allows.")
    return f"{local}@{domain}"


def recipient_rule(text: str) -> str:
    """Return an address or a domain to compare recipients with, in lower case and ASCII.

    'kim@example.com' stands for that address, 'example.com' (or '@example.com') for every address at that very domain,
    '.example.com' for those at its subdomains too. Raises ``InvalidMail`` for anything else.
    """
    if not isinstance(text, str):
        raise InvalidMail(f"A recipient must be text, not {type(text).__name__}.")
    rule = text.strip().lower()
    if "@" in rule.removeprefix("@"):
        return envelope_address(rule).lower().rstrip(".")
    name = rule.removeprefix("@")
    dot = "." if name.startswith(".") else ""
    try:
        domain = envelope_address(f"x@{name.removeprefix('.')}").rpartition("@")[2].lower().rstrip(".")
    except InvalidMail:
        domain = ""
    if not _DOMAIN.fullmatch(domain):
        raise InvalidMail(f"{text!r} is neither an address nor a domain.")
    return dot + domain
