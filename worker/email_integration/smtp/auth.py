"""SASL mechanisms for AUTH (RFC 4954), all in UTF-8: PLAIN (RFC 4616), LOGIN and CRAM-MD5 (RFC 2195) for passwords,
OAUTHBEARER (RFC 7628) and its forerunner XOAUTH2 for tokens of OAuth 2.0.

``smtplib.login()`` cannot encode a user name or password beyond ASCII, hence our own.
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

#: In order of preference once the connection is encrypted.
OVER_TLS = ("PLAIN", "LOGIN", "CRAM-MD5")
#: In the clear, the one that does not show the password comes first.
IN_THE_CLEAR = ("CRAM-MD5", "PLAIN", "LOGIN")
#: With a token; the standard's own comes first.
WITH_A_TOKEN = ("OAUTHBEARER", "XOAUTH2")

#: Replies to AUTH after which another mechanism may do: this one is not known, not possible here, or too weak (RFC
#: 4954 §4 and §6). Google says 534 of the password as well.
_NOT_THIS_ONE = frozenset({501, 502, 504, 534})
_ALREADY_IN = re.compile(
    r"already\b.{0,40}\b(auth|log|identif)|(auth\w*|logged|identified)\b.{0,20}\balready|no identity changes", re.I
)

#: What the reply begins with that refuses a token.
TOKEN_REFUSED = "the server refused the OAuth token"  # noqa: S105  # words

#: Octets of a command line with its end (RFC 5321 §4.5.3.1.4). What would make AUTH longer goes in a line of its own
#: (RFC 4954 §4).
_LONGEST_COMMAND = 512


def mechanisms(offered: str, *, encrypted: bool, by_token: bool = False) -> list[str]:
    """Return the mechanisms to try, the best first, out of the words of the EHLO reply's AUTH line."""
    words = offered.upper().split()
    known = WITH_A_TOKEN if by_token else OVER_TLS if encrypted else IN_THE_CLEAR
    return [name for name in known if name in words and (name != "CRAM-MD5" or _has_md5())]


def _has_md5() -> bool:
    """Whether this machine may compute one: not where FIPS 140 is enforced."""
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
        if code == 334:  # it does not take the response along with the command
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
    """Whether ``reply`` lets us in, or says that it has done so before (RFC 4954 §4)."""
    return reply.code == 235 or (reply.code == 503 and bool(_ALREADY_IN.search(reply.text)))


def another_may_do(mechanism: str, reply: Reply) -> bool:
    """Whether to try the next mechanism, after ``reply`` refused this one.

    After a refused login not: it is wrong by any mechanism, and more tries lock accounts. Only with CRAM-MD5 it may be
    right all the same, on a server that keeps no more than digests of its passwords.
    """
    return reply.code in _NOT_THIS_ONE or (mechanism == "CRAM-MD5" and reply.code == 535)


def most_informative(refusals: list[Reply]) -> Reply:
    """Return the reply that says most of why there is no login; of several alike the first."""
    return max(refusals, key=_rank)


def _rank(reply: Reply) -> int:
    if reply.code == 421:
        return 1  # the connection ends, perhaps because of what was refused before
    if 400 <= reply.code < 500:
        return 4  # for now there is no login at all, whatever a mechanism before has said
    if reply.code == 534:
        return 2  # of the mechanism, but some say so of the password
    return 3 if reply.permanent and reply.code not in _NOT_THIS_ONE else 0


@with_secrets
def authenticate_by_token(
    connection: Connection, mechanism: str, username: str, token: str, *, host: str, port: int
) -> Reply:
    """Show ``token`` and return the server's last reply: 235 when it let us in.

    A refusal is marked as one of a token, and its text begins with that in our words, and with why, if the server has
    said so in a challenge (RFC 7628 §3.2.2).
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
    """Say AUTH with the initial response, or the response in a line of its own where it is too long for that."""
    if len(f"AUTH {mechanism} {response}\r\n") <= _LONGEST_COMMAND:
        return connection.docmd("AUTH", f"{mechanism} {response}")
    code, text = connection.docmd("AUTH", mechanism)
    return connection.docmd(response) if code == 334 else (code, text)


def _explained(challenge: bytes) -> str:
    """What the error in a challenge says of status and scope, in brackets; '' for nothing."""
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
    """What must come back in no reply: nothing for the word that a server says of its own accord."""
    return (password.encode(),) if password and password.lower() != "password" else ()


@with_secrets
def said(username: str, password: str) -> tuple[bytes, ...]:
    """What is said of the password in any of the mechanisms."""
    if not password:
        return ()
    user, secret = username.encode(), password.encode()
    return _encode(b"\0" + user + b"\0" + secret).encode(), _encode(secret).encode()


@with_secrets
def said_of_token(username: str, token: str, *, host: str, port: int) -> list[bytes]:
    """The same of a token."""
    return [_showing(name, username, token, host=host, port=port).encode() for name in WITH_A_TOKEN]


@with_secrets
def _showing(mechanism: str, username: str, token: str, *, host: str, port: int) -> str:
    """The initial response that shows ``token``."""
    if mechanism == "OAUTHBEARER":
        name = username.replace("=", "=3D").replace(",", "=2C")
        return _encode(f"n,a={name},\1host={host}\1port={port}\1auth=Bearer {token}\1\1".encode())
    return _encode(f"user={username}\1auth=Bearer {token}\1\1".encode())


def _encode(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _decode(challenge: bytes) -> bytes:
    try:
        return base64.b64decode(challenge)
    except binascii.Error:
        return b""
