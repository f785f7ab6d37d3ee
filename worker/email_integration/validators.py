"""What the fields of a configuration may hold, with words that say how to mend it."""

from __future__ import annotations

import ssl

from django.core.exceptions import ValidationError
from django.db.models import Field
from django.utils.translation import gettext_lazy as _

from .addresses import envelope_address
from .exceptions import InvalidMail
from .web import is_loopback, is_url

TLS_OR_SSL = _("TLS and SSL exclude each other: choose STARTTLS (TLS) or SSL, not both.")
PORT_RANGE = _("A port is a number from 1 to 65535.")
HOST_AND_TIMEOUT = _("A configuration needs a host, and a timeout of at least one second.")
CERTIFICATES = _(
    "Enter one certificate or several, each from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----."
)
PASSWORD_AGAIN = _(
    "Enter the password again: the host, port or username has changed, and the stored password is not sent to another "
    "server or user unseen."
)

SECRET_AGAIN = _(
    "Enter the secret again: the host, port, username or token endpoint has changed, and the stored one is not sent "
    "anywhere else unseen."
)
OAUTH_INCOMPLETE = _(
    "A login by OAuth needs a username, a token endpoint (https), a client id, and the secret of its grant."
)
CONSENT_FIRST = _(
    "There is no refresh token yet. Save the configuration without activating it, ask the owner of the mailbox for "
    "consent, and activate it then; or enter a refresh token."
)
#: Django's own words.
BLANK = Field.default_error_messages["blank"]


def validate_endpoint(value: str) -> None:
    """Refuse what no secret may be sent to."""
    if not is_url(value):
        raise ValidationError(_("Enter a URL that begins with https://; http:// only for this machine."), code="url")


def validate_token_encryption(*, host: str, encrypted: bool) -> None:
    """Refuse to show a token in the clear (RFC 7628 §4), but to this machine."""
    if not (encrypted or is_loopback(host)):
        raise ValidationError({"use_tls": _("A token is never sent in the clear: turn TLS or SSL on.")})


def validate_host(value: str) -> None:
    """Refuse what is no host name or address: a URL, a mail address, a host with its port."""
    if "://" in value or "/" in value:
        raise ValidationError(_("Enter the host name alone, such as smtp.example.com, not a URL."), code="host")
    if "@" in value:
        raise ValidationError(_("Enter the server's host name, not a mail address."), code="host")
    if any(character.isspace() for character in value):
        raise ValidationError(_("A host name has no spaces."), code="host")
    if value.count(":") == 1:
        raise ValidationError(_("Enter the port in its own field, not behind the host name."), code="host")


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


def encryption_warnings(*, port: int | None, username: str, use_tls: bool, use_ssl: bool) -> list[str]:
    """What works but should be thought about."""
    if username and not (use_tls or use_ssl):
        return [str(_("User name and password go over the network in the clear: turn TLS or SSL on."))]
    if port == 465 and not use_ssl:
        return [str(_("Port 465 usually wants SSL."))]
    return []
