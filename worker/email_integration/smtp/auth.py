"""SASL mechanisms for AUTH (RFC 4954), all in UTF-8: PLAIN (RFC 4616), LOGIN and CRAM-MD5 (RFC 2195) for passwords,
OAUTHBEARER (RFC 7628) and its forerunner XOAUTH2 for tokens of OAuth 2.0.

``smtplib.login()`` cannot encode a user name or password beyond ASCII, hence our own.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import smtplib
from dataclasses import replace

from .dialogue import Connection
from .replies import Reply

#: In order of preference once the connection is encrypted.
OVER_TLS = ("PLAIN", "LOGIN", "CRAM-MD5")
#: In the clear, the one that does not show the password comes first.
IN_THE_CLEAR = ("CRAM-MD5", "PLAIN", "LOGIN")
#: With a token; the standard's own comes first.
WITH_A_TOKEN = ("OAUTHBEARER", "XOAUTH2")

#: What the reply begins with that refuses a token.
TOKEN_REFUSED = "the server refused the OAuth token"  # noqa: S105  # words

#: Octets of a command line with its end (RFC 5321 §4.5.3.1.4). What would make AUTH longer goes in a line of its own
#: (RFC 4954 §4).
_LONGEST_COMMAND = 512


def choose(offered: str, *, encrypted: bool, by_token: bool = False) -> str | None:
    """Return the mechanism to use out of the words of the EHLO reply's AUTH line, or None."""
    words = offered.upper().split()
    known = WITH_A_TOKEN if by_token else OVER_TLS if encrypted else IN_THE_CLEAR
    return next((name for name in known if name in words), None)


def authenticate(connection: smtplib.SMTP, mechanism: str, username: str, password: str) -> tuple[int, bytes]:
    """Run ``mechanism`` and return the code and text of the server's last reply: 235 when it let us in."""
    user, secret = username.encode(), password.encode()
    if mechanism == "PLAIN":
        response = _encode(b"\0" + user + b"\0" + secret)
        code, text = connection.docmd("AUTH", f"PLAIN {response}")
        if code == 334:
            code, text = connection.docmd(response)
        return code, text
    code, text = connection.docmd("AUTH", mechanism)
    answers = [user, secret] if mechanism == "LOGIN" else [None]
    for answer in answers:
        if code != 334:
            break
        if answer is None:
            answer = user + b" " + hmac.new(secret, _decode(text), "md5").hexdigest().encode()
        code, text = connection.docmd(_encode(answer))
    return code, text


def authenticate_by_token(
    connection: Connection, mechanism: str, username: str, token: str, *, host: str, port: int
) -> Reply:
    """Show ``token`` and return the server's last reply: 235 when it let us in.

    A server may say in a challenge why it refuses (RFC 7628 §3.2.2); the reply's text then begins with that, in our
    words.
    """
    if mechanism == "OAUTHBEARER":
        name = username.replace("=", "=3D").replace(",", "=2C")
        said, goes_on = f"n,a={name},\1host={host}\1port={port}\1auth=Bearer {token}\1\1", _encode(b"\1")
    else:
        said, goes_on = f"user={username}\1auth=Bearer {token}\1\1", ""
    response = _encode(said.encode())
    connection.conceal(response.encode(), _encode(token.encode()).encode(), token.encode())
    if len(f"AUTH {mechanism} {response}\r\n") <= _LONGEST_COMMAND:
        code, text = connection.docmd("AUTH", f"{mechanism} {response}")
    else:
        code, text = connection.docmd("AUTH", mechanism)
        if code == 334:
            code, text = connection.docmd(response)
    why = ""
    if code == 334:
        why = _explained(_decode(text).replace(token.encode(), b"***"))
        code, text = connection.docmd(goes_on)
    reply = Reply.parse(code, text)
    return replace(reply, text=f"{TOKEN_REFUSED}{why}\n{reply.text}") if reply.permanent else reply


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


def secrets(username: str, password: str) -> tuple[bytes, ...]:
    """What is said of the password in any of the mechanisms, the longest first."""
    if not password:
        return ()
    user, secret = username.encode(), password.encode()
    encoded = _encode(b"\0" + user + b"\0" + secret).encode(), _encode(secret).encode()
    # Whoever has that for a password: a server says it of its own accord.
    return encoded if password.lower() == "password" else (*encoded, secret)


def _encode(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _decode(challenge: bytes) -> bytes:
    try:
        return base64.b64decode(challenge)
    except binascii.Error:
        return b""
