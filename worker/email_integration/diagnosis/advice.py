"""What to do when a server refuses us, by what it said: the same words in the admin, the shell and the guide."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from email_integration.outcomes.causes import Cause
from email_integration.outcomes.recognition import recognise
from email_integration.smtp import (
    CannotConnect,
    ConnectionLost,
    NotOffered,
    NoToken,
    Phase,
    Relay,
    Reply,
    SMTPFailure,
    TLSFailed,
)
from email_integration.smtp.dialogue import SILENT

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise as Text


@dataclass(frozen=True, kw_only=True)
class Advice:
    """``key`` is the heading in docs/configuration.md under which there is more; ``text`` is lazily translated."""

    key: str
    text: Text


def advice(failure: SMTPFailure, relay: Relay) -> Advice:
    """Say what to do about ``failure``, which happened with ``relay``."""
    key = _key(failure, relay)
    place = {"host": relay.host, "port": relay.port, "timeout": f"{relay.timeout:g}", "username": relay.username}
    return Advice(key=key, text=format_lazy(ADVICE[key], **place))


def _key(failure: SMTPFailure, relay: Relay) -> str:
    if failure.reply is not None:
        return _key_of_reply(failure.phase, failure.reply)
    if isinstance(failure, NoToken):
        return "token-endpoint"
    if isinstance(failure, TLSFailed):
        return _key_of_tls(failure.detail)
    if isinstance(failure, NotOffered):
        if failure.phase is Phase.STARTTLS:
            return "starttls"
        return "token-not-offered" if relay.tokens is not None else "login-not-offered"
    if isinstance(failure, CannotConnect):
        return _key_of_connecting(failure)
    if isinstance(failure, ConnectionLost):
        if failure.phase is Phase.FINAL_DOT:
            return "in-doubt"
        if failure.phase in (Phase.CONNECT, Phase.GREETING) and relay.port == 465 and not relay.use_ssl:
            # A server that speaks TLS from the start waits for the client's first word, and so does the client.
            return "port-and-encryption"
        if failure.detail == SILENT or failure.detail.startswith("no answer"):
            return "timeout"
        return "silence"
    return "other"


def _key_of_connecting(failure: SMTPFailure) -> str:
    cause = failure.__cause__
    if isinstance(cause, socket.gaierror | UnicodeError | OverflowError):
        return "name"
    if isinstance(cause, ConnectionRefusedError):
        return "refused"
    if isinstance(cause, TimeoutError) or failure.detail.startswith("no answer"):
        return "timeout"
    return "unreachable"


def _key_of_tls(detail: str) -> str:
    for key, pattern in _TLS:
        if pattern.search(detail):
            return key
    return "port-and-encryption"


def _key_of_reply(phase: Phase, reply: Reply) -> str:
    key = _HEADINGS.get(recognise(phase, reply))
    if key is None and 400 <= reply.code < 500:
        return "later"
    return key or ("password" if phase is Phase.AUTH else "other")


_HEADINGS: dict[Cause, str] = {
    Cause.STARTTLS_FIRST: "starttls-first",
    Cause.PASSWORDS_OFF: "basic-auth",
    Cause.LOCKED: "locked",
    Cause.TOO_MANY_LOGINS: "too-many-logins",
    Cause.TOKEN: "token",
    Cause.APP_PASSWORD: "app-password",
    Cause.LOGIN: "password",
    Cause.LOGIN_NEEDED: "login-needed",
    Cause.ACCOUNT_BLOCKED: "locked",
    Cause.ACCOUNT_CREDIT: "locked",
    Cause.ACCOUNT_RATE: "later",
    Cause.ACCOUNT_QUOTA: "later",
    Cause.ACCOUNT_IP: "ip-address",
    Cause.LIMIT: "later",
    Cause.CLIENT: "ip-address",
    Cause.DENIED: "ip-address",
    Cause.RELAYING: "relaying",
    Cause.SENDER: "sender",
    Cause.SENDER_NOT_ALLOWED: "sender",
    Cause.NO_MAILBOX: "recipient",
    Cause.MOVED: "recipient",
    Cause.DISABLED: "recipient",
    Cause.BAD_ADDRESS: "recipient",
    Cause.NO_DOMAIN: "recipient",
    Cause.NO_MAIL_DOMAIN: "recipient",
    Cause.LIST: "recipient",
    Cause.UNWANTED: "recipient",
}

_TLS = (
    ("certificate-expired", re.compile(r"expired|not yet valid", re.I)),
    ("certificate-name", re.compile(r"mismatch|not valid for|doesn't match", re.I)),
    ("certificate", re.compile(r"not trusted", re.I)),
    ("tls-version", re.compile(r"UNSUPPORTED_PROTOCOL|PROTOCOL_VERSION|NO_PROTOCOLS|HANDSHAKE_FAILURE|DH_KEY", re.I)),
)

#: What is said, by the heading in docs/configuration.md.
ADVICE: dict[str, Text] = {
    "name": _("There is no server of the name {host}. Look for a typing error, and ask the provider for the name."),
    "refused": _(
        "Nothing listens on port {port} of {host}. Check host and port: 587 is usual with TLS, 465 with SSL. "
        "Some networks block these ports."
    ),
    "unreachable": _(
        "{host} cannot be reached from this machine. Check the network and the firewall, and that the host is right."
    ),
    "timeout": _(
        "{host} did not answer on port {port} within {timeout} seconds. Often a firewall drops the connection: many "
        "providers of servers block port 25, some 465 and 587. If the server is just slow, raise the timeout."
    ),
    "silence": _(
        "The server ended the conversation or fell silent. Try again; if it happens each time, it may limit "
        "connections, or something between here and there, such as a virus scanner, interferes."
    ),
    "port-and-encryption": _(
        "Port and encryption do not fit together. Port 587 (and 25) wants TLS, which is STARTTLS; port 465 wants SSL."
    ),
    "starttls": _(
        "The server does not offer STARTTLS on port {port}. Try port 587, or port 465 with SSL instead of TLS. Turn "
        "encryption off only for a server on your own network."
    ),
    "starttls-first": _("The server wants encryption first: turn TLS on for port 587 or 25, SSL for port 465."),
    "tls-version": _(
        "The server and this machine have no version of TLS in common. The server is probably too old: it should "
        "speak TLS 1.2 or later."
    ),
    "certificate": _(
        "The server's certificate is signed by nobody who is trusted here. If it is a server of your own, paste the "
        "certificate of its authority into the field 'Certificate authority', under 'Advanced'. Otherwise ask the "
        "provider."
    ),
    "certificate-name": _(
        "The server's certificate is for another name than {host}. Enter the name that the certificate has; an "
        "address in numbers hardly ever works."
    ),
    "certificate-expired": _(
        "The server's certificate has expired. Whoever runs the server has to renew it. If it looks valid, check the "
        "clock of this machine."
    ),
    "login-not-offered": _(
        "The server offers no login on this connection. Many do so only once it is encrypted: turn TLS or SSL on. If "
        "the server needs no login, leave the username blank."
    ),
    "token-not-offered": _(
        "The server offers no login by OAuth on this connection. Many do so only once it is encrypted: turn TLS or SSL "
        "on. If it offers none even then, choose the password."
    ),
    "token": _(
        "The server does not accept the OAuth token. Check the scope, that the username is the mailbox, that the "
        "registered app may send for it, and that SMTP is turned on for it."
    ),
    "token-endpoint": _(
        "No OAuth token could be fetched, and the step above says why. Check the token endpoint, the client id, the "
        "secrets and the scope, and that this machine can reach the endpoint."
    ),
    "login-needed": _("The server wants a login: enter username and password."),
    "password": _(
        "The server does not accept the username and password. Enter the password again; the username is often the "
        "whole mail address, and for services such as Amazon SES it is one made for SMTP."
    ),
    "app-password": _(
        "The server does not accept this password. Google and others want an app password: turn on 2-Step Verification "
        "for the account, make one (at https://myaccount.google.com/apppasswords for Google) and enter it here instead "
        "of the account's own."
    ),
    "basic-auth": _(
        "Microsoft has turned password logins off for this mailbox or tenant. An administrator can turn on "
        "'Authenticated SMTP' for the mailbox in the Microsoft 365 admin center; security defaults may have to be "
        "changed as well."
    ),
    "locked": _(
        "The account is locked or disabled. Log in to it in a browser and follow what it says, or ask its "
        "administrator; then test again."
    ),
    "too-many-logins": _("Too many logins have failed. Wait a while, correct the password, then test once."),
    "ip-address": _(
        "The server does not take mail from the address of this machine. Ask the provider to allow it, or see in its "
        "console which addresses may connect; a block list named in the reply has a page for removal."
    ),
    "relaying": _(
        "The server does not relay mail for us to that recipient. Log in with username and password, or have the "
        "server allow this machine."
    ),
    "sender": _(
        "The server does not take mail with this sender. Use a from email that belongs to the account, or verify the "
        "address or its domain with the provider."
    ),
    "recipient": _("The server does not take mail for that recipient. Check the address."),
    "later": _("The server asks to try again later. It is often a limit on logins or mails: wait some minutes."),
    "in-doubt": _("The server did not say whether it took the mail. Look whether it has arrived before sending again."),
    "other": _("The server's reply above says what it wants; its provider's documentation explains it."),
}
