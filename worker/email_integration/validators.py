"""What the fields of a configuration may hold, with words that say how to fix it."""

from __future__ import annotations

import re
import ssl
import unicodedata
from ipaddress import ip_address
from typing import TYPE_CHECKING

from django.core.exceptions import ValidationError
from django.db.models import Field
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from . import conf, references
from .addresses import envelope_address
from .exceptions import InvalidMail
from .smtp import connecting, naming
from .web import is_loopback, is_url

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise as Text

TLS_OR_SSL = _("TLS and SSL exclude each other: choose STARTTLS (TLS) or SSL, not both.")
PORT_RANGE = _("A port is a number from 1 to 65535.")
HOST_AND_TIMEOUT = _("A configuration needs a host, and a timeout of at least one second.")
CERTIFICATES = _(
    "Enter one certificate or several, each from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----."
)
PASSWORD_AGAIN = _(
    "Enter the password again: the host, port, username or certificate authority has changed, or TLS was switched "
    "off, and the stored password is not sent unseen to another server or user, or unencrypted."
)

SECRET_AGAIN = _(
    "Enter the secret again: the host, port, username, token endpoint or certificate authority has changed, or TLS "
    "was switched off, and the stored one is not sent unseen anywhere else, or unencrypted."
)
OAUTH_INCOMPLETE = _(
    "A login by OAuth needs a username, a token endpoint (https), a client id, and the secret of its grant."
)
CONSENT_FIRST = _(
    "There is no refresh token yet. Save the configuration without activating it, ask the owner of the mailbox for "
    "consent, and activate it then; or enter a refresh token."
)
NO_PASSWORD = _(
    "There is a username and no password, so mail is sent without logging in. If the server wants a login, enter the "
    "password."
)
NO_USERNAME = _(
    "There is a password and no username, so mail is sent without logging in. If the server wants a login, enter the "
    "username."
)
#: Django's own words.
BLANK = Field.default_error_messages["blank"]


def longest_timeout() -> float:
    """The seconds that may be waited for a server at a time: no more than for its reply to a final dot.

    A lease lasts as long; after that other workers may take the mail over.
    """
    return float(conf.get("REPLY_TIMEOUT"))


def validate_endpoint(value: str) -> None:
    """Refuse what no secret may be sent to."""
    if not is_url(value):
        raise ValidationError(_("Enter a URL that begins with https://; http:// only for this machine."), code="url")


def validate_token_encryption(*, host: str, encrypted: bool) -> None:
    """Refuse to show a token in the clear (RFC 7628 §4), but to this machine."""
    if not (encrypted or is_loopback(connecting.bare(host))):
        raise ValidationError({"use_tls": _("A token is never sent in the clear: turn TLS or SSL on.")})


def validate_host(value: str) -> None:
    """Refuse what is no host name or address: a URL, a mail address, a host with its port."""
    if "://" in value or "/" in value:
        raise ValidationError(_("Enter the host name alone, such as smtp.example.com, not a URL."), code="host")
    if "@" in value:
        raise ValidationError(_("Enter the server's host name, not a mail address."), code="host")
    _refuse_unseen(value)
    if any(character.isspace() for character in value):
        raise ValidationError(_("A host name has no spaces."), code="host")
    if value.count(":") == 1 or _LITERAL_AND_PORT.search(value):
        raise ValidationError(_("Enter the port in its own field, not behind the host name."), code="host")
    if ("[" in value or "]" in value or ":" in value) and not _is_address(connecting.bare(value)):
        raise ValidationError(
            _("Enter a host name, such as smtp.example.com, or an address, such as 192.0.2.1 or 2001:db8::1."),
            code="host",
        )


_LITERAL_AND_PORT = re.compile(r"\]:\d*$")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def validate_username(value: str) -> None:
    """Refuse what comes along with a user name when it is pasted: spaces at its ends, characters that are not seen."""
    _refuse_unseen(value, but="\u200c\u200d")
    if value != value.strip():
        raise ValidationError(_("The username begins or ends with a space: enter it without."), code="space")


def validate_ehlo_name(value: str) -> None:
    """Refuse what must not be said in EHLO (RFC 5321 §4.1.4)."""
    if not (naming.is_domain(value) or naming.is_address_literal(value)):
        raise ValidationError(
            _(
                "Enter a full domain name of letters, digits and hyphens, such as mail.example.com, or an address in "
                "brackets, such as [192.0.2.1] or [IPv6:2001:db8::1]. Leave this blank for the automatic one."
            ),
            code="ehlo_name",
        )


def trimmed(value: str) -> str:
    """Return ``value`` without the spaces and the characters that are not seen at its ends, as a paste may have."""
    return value.strip("".join({character for character in value if character.isspace() or _is_unseen(character)}))


def doubt_about_secret(value: str) -> Text:
    """Return what to ask about a secret that looks as if more was pasted than belongs to it; '' for nothing.

    It may be meant: any character can be part of a password. A reference to a secret is no matter of this.
    """
    if not value or isinstance(references.parse(value), references.Reference):
        return ""
    found = _unseen_in(value)
    if found:
        return format_lazy(_("It has a character in it that is not seen, {character}."), character=found)
    if value != value.strip():
        return _("It begins or ends with a space.")
    if _IN_GROUPS.fullmatch(value):
        return _("It looks like an app password with the spaces that it is shown with, which do not belong to it.")
    return ""


#: How Google and others show an app password.
_IN_GROUPS = re.compile(r"[a-z0-9]{4}( [a-z0-9]{4}){3}", re.I)


def _refuse_unseen(value: str, *, but: str = "") -> None:
    found = _unseen_in(value, but=but)
    if found:
        text = _("There is a character in it that is not seen, %(character)s: type it instead of pasting it.")
        raise ValidationError(text, params={"character": found}, code="unseen")


def _unseen_in(value: str, *, but: str = "") -> str:
    """The first character that is not seen, or cannot be told from a space, by number and name; '' for none."""
    found = next((character for character in value if _is_unseen(character) and character not in but), None)
    return f"U+{ord(found):04X} {unicodedata.name(found, '')}".strip() if found else ""


def _is_unseen(character: str) -> bool:
    """Whether it is a control or format character, or a space or line end other than the usual one."""
    return character != " " and unicodedata.category(character) in ("Cc", "Cf", "Zs", "Zl", "Zp")


def validate_sender(value: str) -> None:
    """Refuse what is neither an address nor 'Name <address>'."""
    try:
        usable = envelope_address(value).isascii()  # a server without SMTPUTF8 would take no mail at all
    except InvalidMail:
        usable = False
    if not usable:
        raise ValidationError(
            _("Enter an address such as noreply@example.com, or a name with one: Example <noreply@example.com>."),
            code="sender",
        )


def validate_certificates(value: str) -> None:
    """Refuse what are no certificates in PEM format, and a private key among them: this is no place for secrets."""
    try:
        if "PRIVATE KEY" in value:
            raise ValueError
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=value)
    except (ssl.SSLError, TypeError, ValueError):
        raise ValidationError(CERTIFICATES, code="certificates") from None


def validate_encryption(*, port: int | None, use_tls: bool, use_ssl: bool) -> None:
    """Refuse combinations that cannot work."""
    if use_tls and use_ssl:
        raise ValidationError({"use_ssl": TLS_OR_SSL})
    if port == 465 and use_tls:
        raise ValidationError(
            {"use_tls": _("Port 465 speaks TLS from the start: turn TLS off and SSL on, or use port 587 with TLS.")}
        )
    if port == 587 and use_ssl:
        raise ValidationError(
            {
                "use_ssl": _(
                    "Port 587 starts in the clear and then uses STARTTLS: turn SSL off and TLS on, or use port 465."
                )
            }
        )


def login_warnings(*, username: str, password: bool, by_token: bool = False) -> list[str]:
    """Say that no login is done for lack of one half of it; as in Django's backend both are needed."""
    if by_token or bool(username) == password:
        return []
    return [str(NO_PASSWORD if username else NO_USERNAME)]


def encryption_warnings(*, port: int | None, logs_in: bool, use_tls: bool, use_ssl: bool) -> list[str]:
    """What works but should be thought about."""
    if logs_in and not (use_tls or use_ssl):
        return [str(_("User name and password go over the network in the clear: turn TLS or SSL on."))]
    if port == 465 and not use_ssl:
        return [str(_("Port 465 usually wants SSL."))]
    return []
