"""Validators for the fields of a configuration. Each message says how to fix the value."""

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
    "Enter the password again. The host, port, username or certificate authority has changed, or TLS was switched "
    "off. The stored password is not sent to another server, for another user, or unencrypted."
)

SECRET_AGAIN = _(
    "Enter the secret again. The host, port, username, token endpoint or certificate authority has changed, or TLS "
    "was switched off. The stored secret is not sent to another server, for another user, or unencrypted."
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
#: Django's own message.
BLANK = Field.default_error_messages["blank"]


def longest_timeout() -> float:
    """Return the longest timeout for a server, in seconds: that of the reply to a final dot.

    A lease lasts at least as long. Afterwards other workers may take the mail over.
    """
    return float(conf.get("REPLY_TIMEOUT"))


#: Words in the presets of the admin that stand for a value of the user, and how to replace them.
PLACEHOLDERS = {
    "TENANT": _("Replace TENANT with the id of your tenant, or its domain, such as example.onmicrosoft.com."),
    "REGION": _("Replace REGION with the region of your account, such as eu-central-1."),
}


#: The form in which the documentation of providers marks such a word. It is part of no URL or host.
_IN_BRACKETS = re.compile(r"<[^>]*>|\{[^}]*\}")


def _refuse_placeholders(value: str) -> None:
    for word in re.split(r"[./{}<>]", value):
        if word in PLACEHOLDERS:
            raise ValidationError(PLACEHOLDERS[word], code="placeholder")
    found = _IN_BRACKETS.search(value)
    if found:
        text = _("Replace %(part)s with your own value.")
        raise ValidationError(text, params={"part": found[0]}, code="placeholder")


def validate_endpoint(value: str) -> None:
    """Raise ``ValidationError`` for a URL that no secret may be sent to, or with a placeholder."""
    _refuse_placeholders(value)
    if not is_url(value):
        raise ValidationError(_("Enter a URL that begins with https://, or with http:// for this machine."), code="url")


def validate_token_encryption(*, host: str, encrypted: bool) -> None:
    """Raise ``ValidationError`` if a token would be sent in the clear (RFC 7628 §4), except to this machine."""
    if not (encrypted or is_loopback(connecting.bare(host))):
        raise ValidationError({"use_tls": _("A token is never sent unencrypted. Choose STARTTLS or TLS.")})


def validate_host(value: str) -> None:
    """Raise ``ValidationError`` for a URL, a mail address, or a host with its port in place of a host or address.

    Also refuse a placeholder.
    """
    _refuse_placeholders(value)
    if "://" in value or "/" in value:
        raise ValidationError(_("Enter the host name alone, such as smtp.example.com, not a URL."), code="host")
    if "@" in value:
        raise ValidationError(_("Enter the server's host name, not a mail address."), code="host")
    _refuse_unseen(value)
    if any(character.isspace() for character in value):
        raise ValidationError(_("A host name must not contain spaces."), code="host")
    if value.count(":") == 1 or _LITERAL_AND_PORT.search(value):
        raise ValidationError(_("Enter the port in its own field, not after the host name."), code="host")
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
    """Raise ``ValidationError`` for spaces at the ends and invisible characters, which a paste may add to a name."""
    _refuse_unseen(value, but="\u200c\u200d")
    if value != value.strip():
        raise ValidationError(_("The username begins or ends with a space: remove the space."), code="space")


def validate_name(value: str) -> None:
    """Raise ``ValidationError`` for a name that cannot be seen, or that turns or breaks the line it is shown in."""
    _refuse_unseen(value, but="\u200c\u200d\u200e\u200f\u00a0\u3000")  # of Persian, emoji, Hebrew, Arabic; spaces
    if all(character.isspace() or _is_unseen(character) for character in value):
        raise ValidationError(_("Enter a name that can be seen."), code="unseen")


def validate_ehlo_name(value: str) -> None:
    """Raise ``ValidationError`` for a name that is not allowed in EHLO (RFC 5321 §4.1.4)."""
    if not (naming.is_domain(value) or naming.is_address_literal(value)):
        raise ValidationError(
            _(
                "Enter a full domain name of letters, digits and hyphens, such as mail.example.com, or an address in "
                "brackets, such as [192.0.2.1] or [IPv6:2001:db8::1]. Leave this blank to use the automatic name."
            ),
            code="ehlo_name",
        )


def trimmed(value: str) -> str:
    """Return ``value`` without spaces and invisible characters at its ends, which a paste may add."""
    return value.strip("".join({character for character in value if character.isspace() or _is_unseen(character)}))


def doubt_about_secret(value: str) -> Text:
    """Return a warning if more characters than the secret seem to have been pasted; '' for no warning.

    The value may be correct, because a password can contain any character. References to secrets are not checked.
    """
    if not value or isinstance(references.parse(value), references.Reference):
        return ""
    found = _unseen_in(value)
    if found:
        return format_lazy(_("It contains an invisible character, {character}."), character=found)
    if value != value.strip():
        return _("It begins or ends with a space.")
    if _IN_GROUPS.fullmatch(value):
        return _(
            "It looks like an app password with spaces. Remove them: they are shown, but are not part of the password."
        )
    return ""


#: The form in which Google and others show an app password.
_IN_GROUPS = re.compile(r"[a-z0-9]{4}( [a-z0-9]{4}){3}", re.I)


def _refuse_unseen(value: str, *, but: str = "") -> None:
    found = _unseen_in(value, but=but)
    if found:
        text = _("The text contains an invisible character, %(character)s: type the text instead of pasting it.")
        raise ValidationError(text, params={"character": found}, code="unseen")


def _unseen_in(value: str, *, but: str = "") -> str:
    """Return the first invisible character, or one that looks like a space, by number and name; '' for none."""
    found = next((character for character in value if _is_unseen(character) and character not in but), None)
    return f"U+{ord(found):04X} {unicodedata.name(found, '')}".strip() if found else ""


def _is_unseen(character: str) -> bool:
    """Return whether ``character`` is a control or format character, or a space or line end other than ' '."""
    return character != " " and unicodedata.category(character) in ("Cc", "Cf", "Zs", "Zl", "Zp")


def validate_sender(value: str) -> None:
    """Raise ``ValidationError`` unless ``value`` is an ASCII address or 'Name <address>'."""
    try:
        usable = envelope_address(value).isascii()  # a server without SMTPUTF8 would accept no mail from another sender
    except InvalidMail:
        usable = False
    if not usable:
        raise ValidationError(
            _("Enter an address such as noreply@example.com, or a name and an address: Example <noreply@example.com>."),
            code="sender",
        )


def validate_certificates(value: str) -> None:
    """Raise ``ValidationError`` unless ``value`` is certificates in PEM format without a private key.

    The field is not for secrets, so a private key is refused.
    """
    try:
        if "PRIVATE KEY" in value:
            raise ValueError
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=value)
    except (ssl.SSLError, TypeError, ValueError):
        raise ValidationError(CERTIFICATES, code="certificates") from None


def validate_encryption(*, port: int | None, use_tls: bool, use_ssl: bool) -> None:
    """Raise ``ValidationError`` for combinations of port and encryption that cannot work."""
    if use_tls and use_ssl:
        raise ValidationError({"use_ssl": TLS_OR_SSL})
    if port == 465 and use_tls:
        text = _("Port 465 uses TLS from the start. Choose TLS (use_ssl), or use port 587 with STARTTLS.")
        raise ValidationError({"use_tls": text})
    if port == 587 and use_ssl:
        text = _("Port 587 starts unencrypted. Choose STARTTLS (use_tls), or use port 465 with TLS.")
        raise ValidationError({"use_ssl": text})


def login_warnings(*, username: str, password: bool, by_token: bool = False) -> list[str]:
    """Return a warning if only the username or only the password is set. As in Django's backend, a login needs both."""
    if by_token or bool(username) == password:
        return []
    return [str(NO_PASSWORD if username else NO_USERNAME)]


def encryption_warnings(*, port: int | None, logs_in: bool, use_tls: bool, use_ssl: bool) -> list[str]:
    """Return warnings about settings that work but are doubtful."""
    if logs_in and not (use_tls or use_ssl):
        return [str(_("The username and password are sent unencrypted. Choose STARTTLS or TLS."))]
    if port == 465 and not use_ssl:
        return [str(_("Port 465 usually requires TLS from the start."))]
    return []
