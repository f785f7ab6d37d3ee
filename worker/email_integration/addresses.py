"""Mail addresses in the form that MAIL and RCPT accept."""

from __future__ import annotations

import re
from email import utils
from email.errors import MessageError
from email.headerregistry import Address, parser  # type: ignore[attr-defined]  # Django imports it from there too

from django.utils.functional import Promise

from .exceptions import InvalidMail

#: Characters that the standard library may treat as a line break in a header, and other control characters.
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]")

#: Characters that may break a line. Django sends the other control characters in a header.
LINE_BREAK = re.compile(r"[\x00\x0a-\x0d\x1c-\x1e\x85\u2028\u2029]")

#: The null reverse-path, given in place of a sender's address: no bounce is sent (RFC 5321 §4.5.5).
NULL_SENDER = "<>"

#: The strict parser of newer Python versions rejects address literals (RFC 5321 §4.1.3); older versions have no strict
#: parser. ``_parsed`` makes the safety checks of the strict parser.
_LENIENTLY: dict[str, bool] = {"strict": False} if getattr(utils, "supports_strict_parsing", False) else {}

#: Maximum length of an address with its display name, in characters. The local part has at most 64 octets and the
#: domain at most 255 (RFC 5321 §4.5.3.1).
LONGEST = 1000
_LOCAL, _DOMAIN_LENGTH = 64, 255

#: Maximum nesting of comments, groups and routes. The standard library's parser recurses once for each level.
_MOST_NESTED = 20

#: Characters that a terminal does not show. Some programs interpret C1 controls (ISO 6429) as commands.
_UNSEEN = re.compile("[\x00-\x20\x7f-\x9f]")

_SURROGATE = re.compile("[\ud800-\udfff]")

_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")

#: A domain in ASCII, or an address literal (RFC 5321 §4.1.3).
_DOMAIN = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f.:ipv]+\]")

_PLAIN_ADDRESS = r"[a-z0-9_+-]{1,64}(?:\.[a-z0-9_+-]+)*@[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})+"

#: The form of nearly all addresses. It needs no parsing; only the lengths must be checked.
#: The display name has letters and digits of any script. The address is ASCII.
_PLAIN = re.compile(rf"(?:[^\W_]+ )+<((?ai:{_PLAIN_ADDRESS}))>|((?ai:{_PLAIN_ADDRESS}))")


def envelope_address(text: str) -> str:
    """Return the bare address in ``text`` ('Name <address>' or the address alone), its domain in ASCII.

    Raises ``InvalidMail`` for an address that MAIL and RCPT do not allow by RFC 5321 §4.1.2 or, for a local part
    beyond ASCII, by RFC 6531 §3.3.
    """
    if not isinstance(text, str):
        raise InvalidMail(f"An address must be text, not {type(text).__name__}.")
    plain = _PLAIN.fullmatch(text) if len(text) <= LONGEST else None
    if plain is not None:
        address = plain[1] or plain[2]
        if address.index("@") <= 64 and len(address) <= 256:
            return address
    return _parsed(text)


def mail_address(text: object) -> str:
    """Return the bare address in ``text`` as ``envelope_address`` does, and accept what Django's SMTP backend accepts.

    The server may be a local one, so these are accepted too: a local part in RFC 5322's obsolete syntax (§4.4), which
    is returned in quotes; a local part longer than 64 octets; an address without a domain ('root'); and a domain that
    is not in the DNS. Comments and routes are removed. Raises ``InvalidMail`` for anything else.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    elif isinstance(text, tuple) and len(text) == 2:  # name and address
        text = text[1]
    elif isinstance(text, Promise):
        text = str(text)
    try:
        return envelope_address(text)  # type: ignore[arg-type]  # it raises for other types
    except InvalidMail:
        found = _obsolete(text) if isinstance(text, str) else ""
        if not found:
            raise
        return found


def _obsolete(text: str) -> str:
    """Return the address by the rules that Django parses mailboxes with, or '' when there is none."""
    if len(text) > LONGEST or LINE_BREAK.search(text) or _SURROGATE.search(text) or is_too_nested(text):
        return ""
    try:
        mailbox, rest = parser.get_mailbox(text)
        local, domain = mailbox.local_part, mailbox.domain or ""
        if not domain.isascii():
            domain = domain.encode("idna").decode("ascii")
    except (MessageError, ValueError, IndexError, AttributeError):  # the last for '<>'
        return ""
    # A local part beyond ASCII is refused: no server has such an obsolete mailbox, and Django 6 refuses it.
    if rest or not local or not _PRINTABLE.fullmatch(local):
        return ""
    if domain and (not _ANY_DOMAIN.fullmatch(domain) or any(len(label) > _LABEL for label in domain.split("."))):
        return ""
    if not domain and not _WORD.fullmatch(local):
        return ""  # Python reads 'not an address' as a quoted local part, but no server has such a mailbox
    if not _DOT_ATOM.fullmatch(local):
        local = '"' + re.sub(r'(["\\])', r"\\\1", local) + '"'
    found = f"{local}@{domain}" if domain else local
    return found if len(found) <= LONGEST else ""


_PRINTABLE = re.compile(r"[ -~]+")
_WORD = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+", re.ASCII)

#: Characters that are allowed between the angle brackets of MAIL and RCPT and do not end them.
_ANY_DOMAIN = re.compile(r"[!-;=?-~]+")

#: Maximum length of a DNS label, in octets (RFC 1035 §2.3.4).
_LABEL = 63

_DOT_ATOM = re.compile(r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*", re.I | re.A)


def addresses_in(text: str) -> list[str]:
    """Return the addresses in a header's text, unchanged. The result is the same on every supported Python version.

    Return an empty list for text that is nested too deeply.
    """
    if is_too_nested(text):
        return []
    return [address for _name, address in utils.getaddresses([text], **_LENIENTLY)]


def is_too_nested(text: str) -> bool:
    """Return whether ``text`` nests comments, or has groups, to a degree that no real address has."""
    text = _NOT_NESTED.sub("", text)
    if text.count(":") > _MOST_NESTED:
        return True
    if text.count("(") <= _MOST_NESTED:
        return False
    depth = 0
    for bracket in re.findall(r"[()]", text):
        depth = max(0, depth + (1 if bracket == "(" else -1))
        if depth > _MOST_NESTED:
            return True
    return False


#: An escaped character, or an IPv6 address literal. Neither counts as nesting.
_NOT_NESTED = re.compile(r"\\.|\[ipv6:[0-9a-f:.]*\]", re.I | re.S)


def quoted(text: object) -> str:
    """Return ``text`` in quotes, shortened to fit into an error message."""
    try:
        found = ascii(text) if isinstance(text, str) and _SURROGATE.search(text[:_QUOTED]) else repr(text)
    except Exception:  # an integer with too many digits, or an object whose repr() fails
        found = f"a {type(text).__name__}"
    return found if len(found) <= _QUOTED else f"{found[:_QUOTED]}…"


#: Maximum number of characters of an invalid value that an error message quotes.
_QUOTED = 100


def check_text(what: str, text: str) -> None:
    """Raise ``InvalidMail`` if ``text`` has a lone surrogate, as ``surrogateescape`` makes it: no encoding has it.

    ``what`` names the text in the error message.
    """
    if text.isascii():
        return
    found = _SURROGATE.search(text)
    if found:
        raise InvalidMail(
            f"{what}: U+{ord(found[0]):04X} at position {found.start()} is half of a character, which cannot be sent; "
            "decode the text with errors='replace', or remove it."
        )


def _parsed(text: str) -> str:
    """Return the address in any text. Raises ``InvalidMail`` with the reason when there is none."""
    if len(text) > LONGEST:
        raise InvalidMail(
            f"The address {quoted(text)} has {len(text)} characters; with its name it may have at most {LONGEST}."
        )
    if CONTROL.search(text):
        raise InvalidMail(f"The address {quoted(text)} contains a line break or another control character; remove it.")
    check_text(f"The address {quoted(text)}", text)
    found = addresses_in(text)
    # The parser drops blanks and comments inside an address, and the result would be a different address.
    if len(found) != 1 or not found[0] or found[0] not in text:
        raise InvalidMail(
            f"The address {quoted(text)} cannot be parsed; write 'user@example.com' or 'Name <user@example.com>'."
        )
    given, _at, rest = found[0].rpartition("@")
    # Check the lengths before parsing, which is slow. Each letter of a domain takes at least one octet in ASCII.
    if len(given.encode()) > _LOCAL or len(rest) > _DOMAIN_LENGTH:
        raise InvalidMail(f"The address {quoted(text)} is longer than RFC 5321 allows.")
    try:
        # The standard library accepts only ASCII in the local part, so other characters are replaced before parsing.
        address = Address(addr_spec=_BEYOND_ASCII.sub("x", given) + found[0][len(given) :])
        domain = address.domain.encode("idna").decode("ascii")
    except (MessageError, ValueError, IndexError) as error:
        why = str(error) if len(str(error)) <= _QUOTED else type(error).__name__
        raise InvalidMail(f"The address {quoted(text)} cannot be parsed: {why}") from error
    local = address.addr_spec.rpartition("@")[0] if given.isascii() else given
    if not local or not domain or _UNSEEN.search(found[0]):
        raise InvalidMail(f"The address {quoted(text)} is not complete; write 'user@example.com'.")
    if not _DOMAIN.fullmatch(domain.lower()):
        raise InvalidMail(f"The address {quoted(text)} cannot be parsed: {quoted(domain)} is not a domain.")
    if len(local.encode()) > _LOCAL or len(domain) > _DOMAIN_LENGTH:
        raise InvalidMail(f"The address {quoted(text)} is longer than RFC 5321 allows.")
    return f"{local}@{domain}"


def recipient_rule(text: str) -> str:
    """Return an address or a domain to compare recipients with, in lower case and ASCII.

    'kim@example.com' matches that address. 'example.com' (or '@example.com') matches every address at exactly that
    domain. '.example.com' also matches the addresses at its subdomains. Raises ``InvalidMail`` for anything else.
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
        raise InvalidMail(f"{quoted(text)} is neither an address nor a domain.")
    return dot + domain
