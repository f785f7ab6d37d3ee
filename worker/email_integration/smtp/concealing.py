"""Taking out of a reply what was said in AUTH, of which servers give back the whole, a piece or another spelling.

A piece counts from eight octets on, which cannot be there by chance. It is found whatever stands between its letters,
in either case, escaped, and in hex or base64.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable

from email_integration.secrecy import with_secrets

#: Octets of the shortest piece that is looked for.
PIECE = 8
MARK = b"***"

#: What a server says of its own accord, and some have for a password.
_ORDINARY = "password"

#: The code in front of each line of a reply, and one octet in another spelling: of URLs, of C and its heirs, of HTML.
#: Numbers are read as Latin-1, for what is concealed is made of octets.
_SPELLING = re.compile(
    rb"(?:^|(?<=\n))[245]\.\d{1,3}\.\d{1,3}[:;,]?\s"
    rb"|%(?:25)*([0-9A-Fa-f]{2})|\\x([0-9A-Fa-f]{2})|\\u00([0-9A-Fa-f]{2})|\\u\{0*([0-9A-Fa-f]{2})\}"
    rb"|0x([0-9A-Fa-f]{2})\b|&#x0*([0-9A-Fa-f]{2});|\\([0-3][0-7]{2})|&#0*(\d{2,3});"
)
_QUOTED_PRINTABLE = re.compile(rb"=([0-9A-F]{2})|=\r?\n()")


class Concealed:
    """What must not come out. ``hide`` takes it out of a text."""

    def __init__(self, secrets: Iterable[bytes] = ()) -> None:
        """``secrets`` are what is known before anything is said, the longest first."""
        self._secrets: tuple[bytes, ...] = ()
        self._said: tuple[bytes, ...] = ()
        self.add(*secrets)

    @with_secrets
    def add(self, *secrets: bytes) -> None:
        """Let none of these come out either."""
        self._secrets = (*filter(None, secrets), *self._secrets)
        self._forget()

    @with_secrets
    def heard_by_server(self, octets: bytes) -> None:
        """Let nothing come out of a line that was said in AUTH: a command with its argument, or an answer."""
        words = octets.split()
        # The command and the name of the mechanism are no secret.
        words = words[2:] if words and words[0].upper() == b"AUTH" else words
        self._said = (*self._said, *(word for word in words if len(word) >= PIECE))
        self._forget()

    def _forget(self) -> None:
        self._wholes = (*self._secrets, *self._said)
        self._pieces: tuple[set[str], set[str]] | None = None

    @with_secrets
    def hide(self, text: bytes, *, pieces: bool, decoded: bool = True) -> bytes:
        """Return ``text`` with a mark in the place of each secret, and with ``pieces`` of each piece of one.

        Where ``decoded`` is False these are pieces of what was said, but not of a secret in plain text, of which words
        and names may be part that have nothing to do with it.
        """
        wholes = [secret for secret in self._wholes if secret in text]
        if not wholes and not (pieces and self._wholes):
            return text
        hidden = bytearray(len(text))
        for secret in wholes:
            for found in re.finditer(re.escape(secret), text):
                hidden[found.start() : found.end()] = b"x" * len(secret)
        if pieces:
            of_said, of_secrets = self._known()
            known = of_said | of_secrets if decoded else of_said
            for letters, places in _readings(text):
                for at in range(len(letters) - PIECE + 1):
                    if letters[at : at + PIECE] in known:
                        start, end = places[at][0], places[at + PIECE - 1][1]
                        hidden[start:end] = b"x" * (end - start)
        return _marked(text, hidden)

    def _known(self) -> tuple[set[str], set[str]]:
        """The pieces of what was said, and those of the secrets, as ``_letters`` has them."""
        if self._pieces is None:
            said = [form for one in self._said for form in (one, *_spelled(one))]
            secrets = [form for one in self._secrets for form in (one, *_spelled(one))]
            of_said, of_secrets = set(_cut(said)), set(_cut(secrets))
            if _ORDINARY not in [_letters(secret) for secret in self._secrets]:
                of_secrets.discard(_ORDINARY)
            self._pieces = of_said, of_secrets
        return self._pieces


def _spelled(raw: bytes) -> list[bytes]:
    """In hex, and in base64 wherever it begins among other octets."""
    found = [raw.hex().encode()]
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + raw)
        # Without the letters that the octets before and behind it have a part in.
        found.append(encoded[(0, 2, 3)[offset] : (offset + len(raw)) * 8 // 6])
    return found


def _letters(raw: bytes) -> str:
    """What is left when all is gone that may be escaped, left out or put in between."""
    return "".join(map(chr, filter(_counts, raw))).lower()


def _counts(octet: int) -> bool:
    return octet >= 0x80 or chr(octet).isalnum()


def _cut(forms: Iterable[bytes]) -> Iterable[str]:
    for form in forms:
        letters = _letters(form)
        yield from (letters[at : at + PIECE] for at in range(len(letters) - PIECE + 1))


def _readings(text: bytes) -> Iterable[tuple[str, list[tuple[int, int]]]]:
    """The letters of a text with the place of each: as it stands, and with other spellings read."""
    tokens = [(octet, at, at + 1) for at, octet in enumerate(text)]
    yield _of(tokens)
    if _SPELLING.search(text):
        yield _of(_read(text, _SPELLING))
    if _QUOTED_PRINTABLE.search(text):
        yield _of(_read(text, _QUOTED_PRINTABLE))


def _of(tokens: list[tuple[int, int, int]]) -> tuple[str, list[tuple[int, int]]]:
    kept = [(chr(octet).lower(), (start, end)) for octet, start, end in tokens if _counts(octet)]
    return "".join(letter for letter, _ in kept), [place for _, place in kept]


def _read(text: bytes, spelling: re.Pattern[bytes]) -> list[tuple[int, int, int]]:
    found, at = [], 0
    for match in spelling.finditer(text):
        found += [(text[place], place, place + 1) for place in range(at, match.start())]
        at = match.end()
        digits = match[match.lastindex] if match.lastindex else b""
        if digits:
            base = {7: 8, 8: 10}.get(match.lastindex or 0, 16)
            found.append((int(digits, base) & 0xFF, match.start(), at))
    return found + [(text[place], place, place + 1) for place in range(at, len(text))]


def _marked(text: bytes, hidden: bytearray) -> bytes:
    found, at = bytearray(), 0
    for match in re.finditer(rb"x+", bytes(hidden)):
        found += text[at : match.start()] + MARK
        at = match.end()
    return bytes(found + text[at:])
