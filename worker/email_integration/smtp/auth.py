"""SASL mechanisms for AUTH (RFC 4954), all in UTF-8.

For passwords: PLAIN (RFC 4616), LOGIN and CRAM-MD5 (RFC 2195). For OAuth 2.0 tokens: OAUTHBEARER (RFC 7628) and its
predecessor XOAUTH2. They are implemented here because ``smtplib.login()`` cannot encode a user name or password beyond
ASCII.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
import smtplib
from dataclasses import replace

from email_integration.secrecy import with_secrets

from .dialogue import Connection
from .replies import Reply

#: In order of preference on an encrypted connection. A server can check the first two against any stored form of the
#: password; CRAM-MD5 needs a certain form.
OVER_TLS = ("PLAIN", "LOGIN", "CRAM-MD5")
#: In order of preference in the clear: the mechanism that does not show the password comes first.
IN_THE_CLEAR = ("CRAM-MD5", "PLAIN", "LOGIN")
#: In order of preference for a token: the standard mechanism comes first.
WITH_A_TOKEN = ("OAUTHBEARER", "XOAUTH2")

#: Reply codes to AUTH after which another mechanism may work: this one is unknown, not possible, or too weak (RFC 4954
#: §4 and §6). Google also sends 534 for a wrong password.
_NOT_THIS_ONE = frozenset({501, 502, 504, 534})
_ALREADY_IN = re.compile(
    r"already\b.{0,40}\b(auth|log|identif)|(auth\w*|logged|identified)\b.{0,20}\balready|no identity changes", re.I
)

#: The beginning of the reply's text when a token is refused.
TOKEN_REFUSED = "the server refused the OAuth token"  # noqa: S105  # a text, not a secret

#: Maximum length of a command line with its CRLF, in octets (RFC 5321 §4.5.3.1.4). An initial response that would make
#: AUTH longer is sent on a separate line (RFC 4954 §4).
_LONGEST_COMMAND = 512


def mechanisms(offered: str, *, encrypted: bool, by_token: bool = False) -> list[str]:
    """Return the mechanisms to try, best first, from the parameters of AUTH in the EHLO reply."""
    words = offered.upper().split()
    known = WITH_A_TOKEN if by_token else OVER_TLS if encrypted else IN_THE_CLEAR
    return [name for name in known if name in words and (name != "CRAM-MD5" or _has_md5())]


def _has_md5() -> bool:
    """Return whether this machine allows MD5: not where FIPS 140 is enforced."""
    try:
        hmac.new(b"", b"", "md5")
    except ValueError:
        return False
    return True


@with_secrets
def authenticate(connection: Connection, mechanism: str, username: str, password: str) -> Reply:
    """Run ``mechanism`` with a password and return the server's last reply; see ``is_in``."""
    user, secret = username.encode(), password.encode()
    if mechanism == "PLAIN":
        response = _encode(b"\0" + user + b"\0" + secret)
        code, text = _begin(connection, "PLAIN", response)
        if code == 334:  # the server does not accept an initial response
            code, text = connection.docmd(response)
        return Reply.parse(code, text)
    code, text = connection.docmd("AUTH", mechanism)
    answers = [user, secret] if mechanism == "LOGIN" else [None]
    for answer in answers:
        if code != 334:
            break
        if answer is None:
            digest = hmac.new(secret, _decode(connection.challenge), "md5").hexdigest().encode()
            connection.conceal(digest)
            answer = user + b" " + digest
        code, text = connection.docmd(_encode(answer))
    return Reply.parse(code, text)


def is_in(reply: Reply) -> bool:
    """Return whether ``reply`` accepts the login, or says that the session is logged in already (RFC 4954 §4)."""
    return reply.code == 235 or (reply.code == 503 and bool(_ALREADY_IN.search(reply.text)))


def another_may_do(mechanism: str, reply: Reply) -> bool:
    """Return whether to try the next mechanism after ``reply`` refused this one.

    After a refused login the answer is no: the password is wrong for every mechanism, and more tries lock accounts. The
    exception is CRAM-MD5: on a server that stores only digests of its passwords, the password may still be right.
    """
    return reply.code in _NOT_THIS_ONE or (mechanism == "CRAM-MD5" and reply.code == 535)


def most_informative(refusals: list[Reply]) -> Reply:
    """Return the reply that explains best why the login failed; the first of several equal ones."""
    return max(refusals, key=_rank)


def _rank(reply: Reply) -> int:
    if reply.code == 421:
        return 1  # the connection ends, perhaps because of an earlier refusal
    if 400 <= reply.code < 500:
        return 4  # no login is possible for now, whatever the reply to an earlier mechanism was
    if reply.code == 534:
        return 2  # about the mechanism, but some servers send it for a wrong password
    return 3 if reply.permanent and reply.code not in _NOT_THIS_ONE else 0


@with_secrets
def authenticate_by_token(
    connection: Connection, mechanism: str, username: str, token: str, *, host: str, port: int
) -> Reply:
    """Log in with ``token`` and return the server's last reply: 235 when the login is accepted.

    For a permanent refusal, the reply is marked as one to a token (``to_token``). Its text begins with TOKEN_REFUSED,
    and the reason if the server gave one in a challenge (RFC 7628 §3.2.2).
    """
    response = _showing(mechanism, username, token, host=host, port=port)
    goes_on = _encode(b"\1") if mechanism == "OAUTHBEARER" else ""
    connection.conceal(token.encode())
    code, text = _begin(connection, mechanism, response)
    why = ""
    if code == 334:
        why = _explained(connection.without_secrets(_decode(connection.challenge)))
        code, text = connection.docmd(goes_on)
    reply = Reply.parse(code, text)
    if not reply.permanent:
        return reply
    return replace(reply, text=f"{TOKEN_REFUSED}{why}\n{reply.text}", to_token=True)


def _begin(connection: smtplib.SMTP, mechanism: str, response: str) -> tuple[int, bytes]:
    """Send AUTH with the initial response, or the response on a separate line if AUTH would be too long."""
    if len(f"AUTH {mechanism} {response}\r\n") <= _LONGEST_COMMAND:
        return connection.docmd("AUTH", f"{mechanism} {response}")
    code, text = connection.docmd("AUTH", mechanism)
    return connection.docmd(response) if code == 334 else (code, text)


def _explained(challenge: bytes) -> str:
    """Return status and scope from the error in a challenge, in brackets; '' for nothing."""
    try:
        found = json.loads(challenge)
    except ValueError:
        return ""
    if not isinstance(found, dict):
        return ""
    words = [f"{name} {value[:100]}" for name in ("status", "scope") if (value := found.get(name)) and _is_word(value)]
    return f" ({', '.join(words)})" if words else ""


def _is_word(value: object) -> bool:
    return isinstance(value, str) and value.isascii() and value.isprintable()


@with_secrets
def secrets(password: str) -> tuple[bytes, ...]:
    """Return the secrets to remove from replies: none for 'password', a word that servers use themselves."""
    return (password.encode(),) if password and password.lower() != "password" else ()


@with_secrets
def said(username: str, password: str) -> tuple[bytes, ...]:
    """Return the encoded forms in which the mechanisms send the password, if they are the same in each session."""
    if not password:
        return ()
    user, secret = username.encode(), password.encode()
    return _encode(b"\0" + user + b"\0" + secret).encode(), _encode(secret).encode()


@with_secrets
def said_of_token(username: str, token: str, *, host: str, port: int) -> list[bytes]:
    """Return the encoded forms in which the mechanisms send a token."""
    return [_showing(name, username, token, host=host, port=port).encode() for name in WITH_A_TOKEN]


@with_secrets
def _showing(mechanism: str, username: str, token: str, *, host: str, port: int) -> str:
    """Return the initial response that contains ``token``."""
    if mechanism == "OAUTHBEARER":
        name = username.replace("=", "=3D").replace(",", "=2C")
        return _encode(f"n,a={name},\1host={host}\1port={port}\1auth=Bearer {token}\1\1".encode())
    return _encode(f"user={username}\1auth=Bearer {token}\1\1".encode())


def _encode(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _decode(challenge: bytes) -> bytes:
    """Return the decoded challenge; b'' if it cannot be decoded."""
    try:
        return base64.b64decode(challenge)
    except binascii.Error:
        return b""
