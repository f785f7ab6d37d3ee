"""Mail addresses as MAIL and RCPT take them."""

from __future__ import annotations

import re
from email import utils
from email.errors import MessageError
from email.headerregistry import Address, parser  # type: ignore[attr-defined]  # Django takes it from there too

from django.utils.functional import Promise

from .exceptions import InvalidMail

#: What the standard library may take for a line break in a header, and what has no place in one.
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]")

#: The same without what is merely out of place, which Django sends in a header.
LINE_BREAK = re.compile(r"[\x00\x0a-\x0d\x1c-\x1e\x85\u2028\u2029]")

#: In the place of a sender's address: there is none, and no bounce is sent (RFC 5321 §4.5.5).
NULL_SENDER = "<>"

#: The strict parser of newer Pythons takes no address literal (RFC 5321 §4.1.3), and older Pythons have none. What it
#: refuses for safety, ``_parsed`` looks for.
_LENIENTLY: dict[str, bool] = {"strict": False} if getattr(utils, "supports_strict_parsing", False) else {}

#: Characters of an address with its name. The address has at most 64 octets, an @, and 255 octets (RFC 5321 §4.5.3.1).
LONGEST = 1000
_LOCAL, _DOMAIN_LENGTH = 64, 255

#: Comments within comments, groups and routes: the standard library goes one call deeper for each.
_MOST_NESTED = 20

#: No terminal shows them: C1 controls (ISO 6429), which some take for commands.
_UNSEEN = re.compile("[\x00-\x20\x7f-\x9f]")

_SURROGATE = re.compile("[\ud800-\udfff]")

_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")

#: A domain in ASCII, or an address literal (RFC 5321 §4.1.3).
_DOMAIN = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f.:ipv]+\]")

_PLAIN_ADDRESS = r"[a-z0-9_+-]{1,64}(?:\.[a-z0-9_+-]+)*@[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})+"

#: What nearly all addresses look like: nothing in them has to be taken apart, and nothing can be wrong but a length.
#: A name is of letters and digits of any script, the address of ASCII.
_PLAIN = re.compile(rf"(?:[^\W_]+ )+<((?ai:{_PLAIN_ADDRESS}))>|((?ai:{_PLAIN_ADDRESS}))")


def envelope_address(text: str) -> str:
    """Return the bare address in ``text`` ('Name <address>' or the address alone), its domain in ASCII.

    Raises ``InvalidMail`` for anything that RFC 5321 §4.1.2, or RFC 6531 §3.3 for a local part beyond ASCII, does not
    let into MAIL or RCPT.
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
    """As ``envelope_address``, with what Django's SMTP backend hands to a server beyond that: it may be the local one.

    That is a local part that is in no mailbox's syntax but RFC 5322's obsolete one (§4.4), which is quoted, or longer
    than 64 octets; an address without a domain ('root'); a domain that is in no DNS; comments and routes, left out.
    Raises ``InvalidMail``.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    elif isinstance(text, tuple) and len(text) == 2:  # name and address
        text = text[1]
    elif isinstance(text, Promise):
        text = str(text)
    try:
        return envelope_address(text)  # type: ignore[arg-type]  # it refuses what is no text
    except InvalidMail:
        found = _obsolete(text) if isinstance(text, str) else ""
        if not found:
            raise
        return found


def _obsolete(text: str) -> str:
    """The address by the rules that Django takes mailboxes apart by; '' when there is none."""
    if len(text) > LONGEST or LINE_BREAK.search(text) or _SURROGATE.search(text) or is_too_nested(text):
        return ""
    try:
        mailbox, rest = parser.get_mailbox(text)
        local, domain = mailbox.local_part, mailbox.domain or ""
        if not domain.isascii():
            domain = domain.encode("idna").decode("ascii")
    except (MessageError, ValueError, IndexError, AttributeError):  # the last for '<>'
        return ""
    # Beyond ASCII nothing is gained: no server has such a mailbox, and Django 6 refuses it.
    if rest or not local or not _PRINTABLE.fullmatch(local):
        return ""
    if domain and (not _ANY_DOMAIN.fullmatch(domain) or any(len(label) > _LABEL for label in domain.split("."))):
        return ""
    if not domain and not _WORD.fullmatch(local):
        return ""  # 'not an address' is one to Python, in quotes, and to no server
    if not _DOT_ATOM.fullmatch(local):
        local = '"' + re.sub(r'(["\\])', r"\\\1", local) + '"'
    found = f"{local}@{domain}" if domain else local
    return found if len(found) <= LONGEST else ""


_PRINTABLE = re.compile(r"[ -~]+")
_WORD = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+", re.ASCII)

#: What stands between the angle brackets of MAIL and RCPT and ends them not.
_ANY_DOMAIN = re.compile(r"[!-;=?-~]+")

#: Octets of a label in the DNS (RFC 1035 §2.3.4).
_LABEL = 63

_DOT_ATOM = re.compile(r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*", re.I | re.A)


def addresses_in(text: str) -> list[str]:
    """Return the addresses in a header's text, as they are written; alike on each Python.

    There are none in what is too nested.
    """
    if is_too_nested(text):
        return []
    return [address for _name, address in utils.getaddresses([text], **_LENIENTLY)]


def is_too_nested(text: str) -> bool:
    """Whether ``text`` has comments within comments, or groups, such as no address has."""
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


#: A character that is escaped, and an address literal.
_NOT_NESTED = re.compile(r"\\.|\[ipv6:[0-9a-f:.]*\]", re.I | re.S)


def quoted(text: object) -> str:
    """``text`` in quotes, as much of it as a sentence bears."""
    try:
        found = ascii(text) if isinstance(text, str) and _SURROGATE.search(text[:_QUOTED]) else repr(text)
    except Exception:  # a number of too many digits, or an object that says nothing of itself
        found = f"a {type(text).__name__}"
    return found if len(found) <= _QUOTED else f"{found[:_QUOTED]}…"


#: Characters of what is wrong that an error quotes.
_QUOTED = 100


def check_text(what: str, text: str) -> None:
    """Raise ``InvalidMail`` for half of a character, as ``surrogateescape`` leaves it: no encoding has it."""
    if text.isascii():
        return
    found = _SURROGATE.search(text)
    if found:
        raise InvalidMail(
            f"{what}: U+{ord(found[0]):04X} at position {found.start()} is half of a character, which cannot be sent; "
            "decode the text with errors='replace', or take it out."
        )


def _parsed(text: str) -> str:
    """The address in any text, or the reason why there is none."""
    if len(text) > LONGEST:
        raise InvalidMail(
            f"The address {quoted(text)} has {len(text)} characters; with its name it may have at most {LONGEST}."
        )
    if CONTROL.search(text):
        raise InvalidMail(f"The address {quoted(text)} holds a line break or another control character.")
    check_text(f"The address {quoted(text)}", text)
    found = addresses_in(text)
    # The parser drops blanks and comments inside of an address: that would be another one than was written.
    if len(found) != 1 or not found[0] or found[0] not in text:
        raise InvalidMail(
            f"The address {quoted(text)} cannot be parsed; write 'user@example.com' or 'Name <user@example.com>'."
        )
    given, _at, rest = found[0].rpartition("@")
    # Before they are taken apart, which takes long. A letter of a domain is at least one octet of it in ASCII.
    if len(given.encode()) > _LOCAL or len(rest) > _DOMAIN_LENGTH:
        raise InvalidMail(f"The address {quoted(text)} is longer than RFC 5321 allows.")
    try:
        # The standard library takes no letters beyond ASCII there: parsed with others in their places.
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
        raise InvalidMail(f"{quoted(text)} is neither an address nor a domain.")
    return dot + domain
