"""SASL mechanisms for AUTH (RFC 4954): PLAIN (RFC 4616), LOGIN, CRAM-MD5 (RFC 2195), all in UTF-8.

``smtplib.login()`` cannot encode a user name or password beyond ASCII, hence our own.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import smtplib

#: In order of preference once the connection is encrypted.
OVER_TLS = ("PLAIN", "LOGIN", "CRAM-MD5")
#: In the clear, the one that does not show the password comes first.
IN_THE_CLEAR = ("CRAM-MD5", "PLAIN", "LOGIN")


def choose(offered: str, *, encrypted: bool) -> str | None:
    """Return the mechanism to use out of the words of the EHLO reply's AUTH line, or None."""
    words = offered.upper().split()
    return next((name for name in (OVER_TLS if encrypted else IN_THE_CLEAR) if name in words), None)


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
