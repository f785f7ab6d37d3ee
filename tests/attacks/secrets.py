"""Secrets to plant, and to look for in whatever comes out."""

from __future__ import annotations

import base64
import secrets
import urllib.parse


def new(kind: str = "secret") -> str:
    """Return a secret that is in no other text: its kind, so that a finding says which, and 96 random bits."""
    return f"{kind}-{secrets.token_hex(12)}"


def forms(secret: str) -> set[str]:
    """Return the ways in which ``secret`` may be written: as it is, in base64 at each offset, in hex, quoted."""
    raw = secret.encode()
    found = {secret, secret[::-1], raw.hex(), raw.hex().upper(), urllib.parse.quote(secret)}
    for offset in range(3):
        whole = base64.b64encode(b"\0" * offset + raw)
        # Without what the octets before and after it have a part in.
        found.add(whole[(0, 2, 3)[offset] : len(whole) // 4 * 4 - 4].decode())
    return {form for form in found if len(form) >= 8}


def found_in(text: str, *planted: str) -> list[str]:
    """Return which of the ``planted`` secrets stand in ``text``, in any of their forms."""
    return [secret for secret in planted if any(form in text for form in forms(secret))]
