"""Secrets to plant, and to search for in all output."""

from __future__ import annotations

import base64
import secrets
import urllib.parse


def new(kind: str = "secret") -> str:
    """Return a unique secret: its kind, so that a finding names it, and 96 random bits."""
    return f"{kind}-{secrets.token_hex(12)}"


def forms(secret: str) -> set[str]:
    """Return the possible spellings of ``secret``: plain, reversed, in hex, quoted, and in base64 at each offset."""
    raw = secret.encode()
    found = {secret, secret[::-1], raw.hex(), raw.hex().upper(), urllib.parse.quote(secret)}
    for offset in range(3):
        whole = base64.b64encode(b"\0" * offset + raw)
        # Without the characters that also depend on the octets before and after it.
        found.add(whole[(0, 2, 3)[offset] : len(whole) // 4 * 4 - 4].decode())
    return {form for form in found if len(form) >= 8}


def found_in(text: str, *planted: str) -> list[str]:
    """Return the ``planted`` secrets that ``text`` contains, in any of their forms."""
    return [secret for secret in planted if any(form in text for form in forms(secret))]
