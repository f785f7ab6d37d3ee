"""Advice for a failed connection, login or mail, chosen by the kind of failure and the server's reply.

The admin, the command line and the configuration guide use the same texts.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from email_integration import conf, validators
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
    Seen,
    SMTPFailure,
    TLSFailed,
    tls,
)
from email_integration.smtp.dialogue import MALFORMED

from .advice_texts import ADVICE

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise
    from django.utils.functional import _StrPromise as Text


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Advice for one failure.

    ``key`` is the heading in docs/configuration.md with more information. ``text`` is translated lazily.
    """

    key: str
    text: Text


def advise(failure: SMTPFailure, relay: Relay) -> Advice:
    """Return the advice for ``failure``, which occurred with ``relay``."""
    key = _key(failure, relay)
    place = {"host": relay.host, "port": relay.port, "timeout": f"{relay.timeout:g}", "username": relay.username}
    text = format_lazy(ADVICE[key], **place)
    more = _more(key, failure, relay)
    return Advice(key=key, text=format_lazy("{} {}", text, more) if more else text)


def _more(key: str, failure: SMTPFailure, relay: Relay) -> _StrOrPromise:
    """Return an additional sentence for this particular failure, or ''."""
    if key == "ehlo-name":
        said = failure.seen.ehlo_name or relay.ehlo_name
        return format_lazy(_("The name that was sent is {name}."), name=said) if said else ""
    if key == "not-smtp":
        return format_lazy(_("The answer was: {answer}."), answer=_answer(failure))
    if key == "connections":
        size = min(conf.get("SESSIONS"), relay.max_connections or conf.get("SESSIONS"))
        return format_lazy(_("Now each process may open {size}."), size=size)
    if key in ("password", "app-password") and relay.tokens is None:
        doubt = validators.doubt_about_secret(relay.password)
        return format_lazy(_("The password that was tried may be wrong. {doubt}"), doubt=doubt) if doubt else ""
    return ""


def _key(failure: SMTPFailure, relay: Relay) -> str:
    if failure.reply is not None:
        return _key_of_reply(failure.phase, failure.reply, relay, failure.seen)
    if isinstance(failure, NoToken):
        return "token-endpoint"
    if isinstance(failure, TLSFailed):
        return _key_of_tls(failure)
    if isinstance(failure, NotOffered):
        if failure.phase is Phase.STARTTLS:
            return "starttls"
        return "token-not-offered" if relay.tokens is not None else "login-not-offered"
    if isinstance(failure, CannotConnect):
        return _key_of_connecting(failure)
    if isinstance(failure, ConnectionLost):
        return _key_of_losing(failure, relay)
    return "other"


def _key_of_losing(failure: ConnectionLost, relay: Relay) -> str:
    if failure.phase is Phase.FINAL_DOT:
        return "in-doubt"
    if failure.phase in (Phase.CONNECT, Phase.GREETING):
        words = failure.seen.first_words
        if words and not _TLS_RECORD.match(words):
            return "silence" if _LIKE_SMTP.match(words) else "not-smtp"
        if relay.use_ssl or (failure.detail == MALFORMED and not words):
            return "silence"
        # A server that speaks TLS from the start waits for the client to begin. A client without TLS waits for the
        # greeting.
        return "port-and-encryption" if relay.port == 465 else "tls-from-the-start"
    if failure.is_silence:
        return "timeout"
    return "silence"


def _key_of_connecting(failure: SMTPFailure) -> str:
    cause = failure.__cause__
    if isinstance(cause, socket.gaierror | UnicodeError | OverflowError):
        return "name"
    if isinstance(cause, ConnectionRefusedError):
        return "refused"
    if failure.is_silence:
        return "timeout"
    return "unreachable"


def _key_of_tls(failure: TLSFailed) -> str:
    if failure.phase is Phase.CONNECT and tls.IN_THE_CLEAR in failure.detail:
        return "tls-by-starttls"
    return next((key for key, pattern in _TLS if pattern.search(failure.detail)), "tls-refused")


def _key_of_reply(phase: Phase, reply: Reply, relay: Relay, seen: Seen) -> str:
    if phase is Phase.GREETING and reply.code < 400:
        return "not-smtp"
    if phase is Phase.EHLO and reply.permanent and (key := _key_of_other_protocol(reply, seen)):
        return key
    if phase is Phase.AUTH and _NO_SUCH_WAY.search(f"{reply.code} {reply.text}"):
        return "token-not-offered" if relay.tokens is not None else "login-not-offered"
    said, cause = _one_line(reply), recognise(phase, reply)
    key = next((key for key, pattern in _WORDS if pattern.search(said)), None)
    if phase is Phase.GREETING and key == "ehlo-name":
        key = None  # the client has not sent its name yet
    blocked = _BLOCKED.search(said) is not None
    if key is None and phase is Phase.EHLO and reply.permanent and cause not in _NOT_OF_THE_NAME:
        key = "ehlo-name" if reply.code in _OF_SYNTAX or not blocked else None
    key = key or _HEADINGS.get(cause)
    if (key == "ip-address" and not blocked) or (key in ("recipient", "sender") and _DENIED.search(said)):
        key = "login-needed" if _lacks_login(phase, relay, seen) else key
    if key is None and 400 <= reply.code < 500:
        return "server-fault" if cause in (Cause.TROUBLE, Cause.NO_SPACE) else "later"
    return key or ("password" if phase is Phase.AUTH else "other")


def _key_of_other_protocol(reply: Reply, seen: Seen) -> str | None:
    """Return the advice key for a protocol that knows neither EHLO nor HELO, or None.

    The replies of such a protocol (LMTP, FTP) begin as SMTP replies do.
    """
    if _LMTP.search(reply.text) or (_LMTP.search(_greeting(seen)) and not _SMTP.search(_greeting(seen))):
        return "lmtp"
    return "not-smtp" if reply.code in (500, 502) or _FTP.search(_greeting(seen)) else None


def _lacks_login(phase: Phase, relay: Relay, seen: Seen) -> bool:
    """Return whether the server may reject this client because of the missing login."""
    if relay.logs_in or phase in (Phase.CONNECT, Phase.GREETING, Phase.EHLO):
        return False
    offers = {line.split()[0] for line in seen.capabilities if line}
    return "AUTH" in offers or ("STARTTLS" in offers and not (relay.use_tls or relay.use_ssl))


def _greeting(seen: Seen) -> str:
    return seen.first_words.decode("utf-8", "replace")


def _answer(failure: SMTPFailure) -> str:
    """Return the name of the protocol that the server speaks, with its first words, or only these words."""
    said = _greeting(failure.seen) or (f"{failure.reply.code} {failure.reply.text}" if failure.reply else "")
    line = "".join(character if character.isprintable() else " " for character in said[:200]).strip()
    quoted = f"“{line[:_QUOTED]}{'…' if len(line) > _QUOTED else ''}”"
    protocol = next((name for name, pattern in _PROTOCOLS if pattern.search(said)), None)
    return f"{protocol} ({quoted})" if protocol else quoted


#: How many characters to show of an answer that is not SMTP.
_QUOTED = 60

_LMTP = re.compile(r"\b(LMTP|LHLO)\b", re.I)
#: A greeting need not name its protocol. A greeting that names SMTP is SMTP, whatever the host is called.
_SMTP = re.compile(r"\bE?SMTP\b", re.I)
_FTP = re.compile(r"^(?!.*\bE?SMTP\b).*(\bFTP\b|FTPd?\b)", re.I | re.S)
_PROTOCOLS = (
    ("HTTP", re.compile(r"^\s*(HTTP/|<!DOCTYPE|<html)", re.I)),
    ("IMAP", re.compile(r"^\* (OK|BYE|PREAUTH|BAD|NO)\b", re.I)),
    ("POP3", re.compile(r"^(\+OK|-ERR)\b")),
    ("SSH", re.compile(r"^SSH-")),
    ("FTP", _FTP),
)
#: The possible beginning of an SMTP greeting.
_LIKE_SMTP = re.compile(rb"[2-5]\d\d(?:[ -]|\r?\n)")
#: A TLS alert or handshake record (RFC 8446 §5.1).
_TLS_RECORD = re.compile(rb"[\x15\x16]\x03")

#: Patterns that decide regardless of the rest of the reply. The first match counts.
_WORDS = (
    (
        "server-fault",
        re.compile(
            r"^\d{3} \d\.3\.5 |configuration (error|problem)"
            r"|^\d{3} (?!\d\.[17]\.).*"
            r"(temporary lookup failure|internal( server)? error|(local|system) (problem|error))",
            re.I,
        ),
    ),
    ("greylisting", re.compile(r"^4.*(\bgr[ea]y[- ]?list|postgrey)", re.I)),
    (
        "connections",
        re.compile(
            r"\b(too many|max\w*|limits?)\b.{0,50}\b(connections|clients)\b|sender thread limit"
            r"|\b(concurrent|simultaneous)\b.{0,30}\b(connections?|sessions?|sending)\b"
            r"|\bconnections?\b(?!.*\btime).{0,40}\b(limits?|exceed\w*|maximum|too many)\b",
            re.I,
        ),
    ),
    ("starttls-first", re.compile(r"^538 |^\d{3} 5\.7\.11 ")),
    # Servers send 503 to a client that has sent no EHLO or HELO.
    ("ehlo-name", re.compile(r"^(?!503).*\b(helo|ehlo)\b", re.I)),
)

#: The server rejects the mechanism, not the credentials (RFC 4954 §4 and §6).
_NO_SUCH_WAY = re.compile(r"^50[24] |^534 .*mechanism", re.I | re.S)

#: Causes other than the client's name for which a server rejects EHLO.
_NOT_OF_THE_NAME = frozenset(
    {Cause.STARTTLS_FIRST, Cause.LOGIN_NEEDED, Cause.LOCKED, Cause.LIMIT, Cause.TOO_MANY_LOGINS}
)
#: Codes for a syntax error in a command or in its argument.
_OF_SYNTAX = (501, 504, 553)
#: The server rejects the client's IP address, by a blocklist or by name. A login or another EHLO name does not help.
_BLOCKED = re.compile(r"block(ed|list| list)|black ?list|spamhaus|banned|\bip\b|reputation", re.I)
#: Replies to a client that has not logged in, although they do not mention a login.
_DENIED = re.compile(r"access denied|not (logged in|authenticated)", re.I)

_ADDRESS = re.compile(r"<[^<>]*>|[^\s<>]+@[^\s<>]+")


def _one_line(reply: Reply) -> str:
    """Return the code and the text on one line, without mail addresses, because an address can contain any word."""
    return f"{reply.code} {' '.join(_ADDRESS.sub('', reply.text[:2000]).split())}"


_HEADINGS: dict[Cause | None, str] = {
    Cause.STARTTLS_FIRST: "starttls-first",
    Cause.PASSWORDS_OFF: "basic-auth",
    Cause.LOCKED: "locked",
    Cause.TOO_MANY_LOGINS: "too-many-logins",
    Cause.TOKEN: "token",
    Cause.APP_PASSWORD: "app-password",
    Cause.LOGIN: "password",
    Cause.LOGIN_NEEDED: "login-needed",
    Cause.LOGIN_LATER: "later",
    Cause.ACCOUNT_BLOCKED: "locked",
    Cause.ACCOUNT_CREDIT: "locked",
    Cause.ACCOUNT_RATE: "later",
    Cause.ACCOUNT_QUOTA: "later",
    Cause.ACCOUNT_IP: "ip-address",
    Cause.LIMIT: "later",
    Cause.GREYLISTED: "greylisting",
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
    ("certificate", re.compile(r"not trusted|CA certificates", re.I)),
    ("port-and-encryption", re.compile(re.escape(tls.IN_THE_CLEAR))),
    ("tls-version", re.compile(f"{tls.NO_VERSION}|{tls.NO_CIPHER}")),
    ("tls-name", re.compile(tls.NO_NAME)),
    ("tls-client-certificate", re.compile(tls.NO_CLIENT_CERTIFICATE)),
)
