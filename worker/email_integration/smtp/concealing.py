"""Remove secrets sent in AUTH from replies: servers return them whole, in part or in another spelling.

A piece counts from eight octets on, a length that rules out chance. It is found in any case, with other characters
between its letters, escaped, and in hex or base64.
"""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Iterable, Iterator

from email_integration.secrecy import with_secrets

#: Length of the shortest piece that is searched for, in octets.
PIECE = 8
MARK = b"***"

#: A word that servers use themselves, and that some people use as a password.
_ORDINARY = b"password"

#: Characters that are ignored on both sides of the comparison: none; those that lines and quotes add; and all that may
#: be escaped, which leaves nothing of a password of punctuation.
_LEFT_OUT = (
    b"",
    bytes(range(0x21)) + b"\\\"'\x7f",
    bytes(octet for octet in range(0x80) if not chr(octet).isalnum()),
)
_LOWER = bytes(range(256)).lower()

#: The code at the beginning of each line of a reply, and one character in another spelling: of URLs, of C and related
#: languages, of HTML, also when each of them is escaped once more. Runs of ``\u`` are UTF-16.
_SPELLING = re.compile(
    rb"(?:^|(?<=\n))(?:[2-5]\d\d[- ](?:[245]\.\d{1,3}\.\d{1,3}[:;,]?\s)?|[245]\.\d{1,3}\.\d{1,3}[:;,]?\s)"
    rb"|(?P<units>(?:(?:\\{1,4}u|%u)[0-9A-Fa-f]{4})+)|U\+(?P<point>[0-9A-Fa-f]{4,6})\b\s?"
    rb"|(?:%(?:25)*|\\x|\b0x)(?P<octet>[0-9A-Fa-f]{2})(?:\b[,;\s]+(?=0x))?"
    rb"|\\(?P<octal>[0-3][0-7]{2})"
    rb"|(?:\\u\{|&(?:amp;)*#x)0*(?P<hex>[0-9A-Fa-f]{1,6})[;}]|&(?:amp;)*#0*(?P<decimal>\d{1,7});"
    rb"|&(?:amp;)*(?P<name>amp|lt|gt|quot|apos);"
)
_QUOTED_PRINTABLE = re.compile(rb"=(?P<octet>[0-9A-Fa-f]{2})|=\r?\n")
_LISTED = re.compile(rb"\b(?P<listed>\d{1,3})\b[,;\s]*")
_NAMED = {b"amp": b"&", b"lt": b"<", b"gt": b">", b"quot": b'"', b"apos": b"'"}

#: Octets, and for each octet its start and end in the text that it was read from.
_Reading = tuple[bytes, list[tuple[int, int]]]


class Concealed:
    """The secrets that must not be shown. ``hide`` removes them from a text."""

    def __init__(self, secrets: Iterable[bytes] = (), said: Iterable[bytes] = ()) -> None:
        """``secrets`` are known before the login; ``said`` are the encoded forms in which they will be sent."""
        #: Whether there are no secrets.
        self.is_empty = True
        self._secrets: tuple[bytes, ...] = ()
        self._said: tuple[bytes, ...] = ()
        self.add(*secrets, said=said)

    @with_secrets
    def add(self, *secrets: bytes, said: Iterable[bytes] = ()) -> None:
        """Hide these values too."""
        self._secrets += tuple(secret for secret in secrets if secret and secret not in self._secrets)
        self._said += tuple(word for word in said if len(word) >= PIECE and word not in self._said)
        self.is_empty = not (self._secrets or self._said)

    @with_secrets
    def heard_by_server(self, octets: bytes) -> None:
        """Hide the words of a line that was sent in AUTH: a command with its argument, or an answer."""
        words = octets.split()
        # The command and the name of the mechanism are not secret.
        words = words[2:] if words and words[0].upper() == b"AUTH" else words
        self.add(said=words)

    @with_secrets
    def hide(self, text: bytes, *, pieces: bool, decoded: bool = True) -> bytes:
        """Return ``text`` with a mark in place of each secret and, with ``pieces``, of each piece of one.

        With ``decoded=False``, pieces of a secret in plain text stay, because unrelated words and names may contain
        them.
        """
        if self.is_empty:
            return text
        found = [
            match.span()
            for secret in (*self._secrets, *self._said)
            if secret in text
            for match in re.finditer(re.escape(secret), text)
        ]
        if pieces:
            known = [_encoded(self._secrets, self._said), *([_plain(self._secrets)] if decoded else [])]
            found += _found(text, known)
            for octets, places in _readings(text):
                found += [(places[start][0], places[end - 1][1]) for start, end in _found(octets, known)]
        return _marked(text, found) if found else text

    @with_secrets
    def is_in(self, text: bytes) -> bool:
        """Return whether ``text`` contains a secret or a piece of one."""
        return self.hide(text, pieces=True) != text


# -- the pieces to search for -----------------------------------------------------------------------------------------

#: The pieces, one set for each of ``_LEFT_OUT``, without its characters.
_Pieces = tuple[frozenset[bytes], ...]


@functools.lru_cache(maxsize=8)  # the sessions with one server use the same values
@with_secrets
def _encoded(secrets: tuple[bytes, ...], said: tuple[bytes, ...]) -> _Pieces:
    """Return the pieces of the sent forms, and of the secrets in hex and in base64."""
    return _pieces(said, [form for one in (*said, *secrets) for form in _forms(one)])


@functools.lru_cache(maxsize=8)
@with_secrets
def _plain(secrets: tuple[bytes, ...]) -> _Pieces:
    """Return the pieces of the secrets in plain text."""
    is_ordinary = _ORDINARY in [secret.lower() for secret in secrets]
    return tuple(found if is_ordinary else found - {_ORDINARY} for found in _pieces(secrets, []))


def _pieces(plain: Iterable[bytes], of_letters: Iterable[bytes]) -> _Pieces:
    plain = tuple(plain)
    *others, last = [{piece for form in plain for piece in _cut(form, left_out)} for left_out in _LEFT_OUT]
    last.update(piece for form in of_letters for piece in _cut(form, _LEFT_OUT[-1]))
    return tuple(map(frozenset, (*others, last)))


def _cut(form: bytes, left_out: bytes) -> Iterator[bytes]:
    characters = form.translate(_LOWER, left_out)
    return (characters[at : at + PIECE] for at in range(len(characters) - PIECE + 1))


def _forms(raw: bytes) -> Iterator[bytes]:
    """Yield ``raw`` in hex, and in base64 at each offset among other octets; the same for its UTF-16, used by some."""
    text = raw.decode("utf-8", "replace") if len(raw) <= _LONGEST_WIDE else ""
    for octets in filter(None, (raw, text.encode("utf-16-le"), text.encode("utf-16-be"))):
        yield octets.hex().encode()
        for offset in range(3):
            encoded = base64.b64encode(b"\0" * offset + octets)
            # Leave out the characters that also encode the octets before or after it.
            yield encoded[(0, 2, 3)[offset] : (offset + len(octets)) * 8 // 6]


#: Maximum length, in octets, of a text whose UTF-16 is searched for. Tokens are longer, and are not people's passwords.
_LONGEST_WIDE = 256


# -- the texts to search in -------------------------------------------------------------------------------------------


def _readings(text: bytes) -> Iterator[_Reading]:
    """Yield the text with other spellings decoded, for each kind of spelling that it has."""
    if _SPELLING.search(text):
        yield from (_read(text, _SPELLING, in_utf8=in_utf8) for in_utf8 in (False, True))
    if _QUOTED_PRINTABLE.search(text):
        yield _read(text, _QUOTED_PRINTABLE)
    if len(_LISTED.findall(text)) >= PIECE:
        yield _read(text, _LISTED)


def _read(text: bytes, spelling: re.Pattern[bytes], *, in_utf8: bool = True) -> _Reading:
    octets, places, at = bytearray(), list[tuple[int, int]](), 0
    for match in spelling.finditer(text):
        octets += text[at : match.start()]
        places += [(place, place + 1) for place in range(at, match.start())]
        at = match.end()
        read = _meant(match, in_utf8=in_utf8)
        octets += read
        places += [match.span()] * len(read)
    octets += text[at:]
    return bytes(octets), [*places, *((place, place + 1) for place in range(at, len(text)))]


def _meant(match: re.Match[bytes], *, in_utf8: bool) -> bytes:
    """Return the octets of one spelling; a number is a character, or one octet of a character."""
    kind = match.lastgroup
    digits = match[kind] if kind else b""
    if kind == "name":
        return _NAMED[digits]
    if kind == "units":
        units = [int(unit, 16) for unit in re.findall(rb"[0-9A-Fa-f]{4}", digits)]
        if in_utf8 or max(units) > 0xFF:
            wide = b"".join(unit.to_bytes(2) for unit in units)
            return wide.decode("utf-16-be", "replace").encode()
        return bytes(units)
    if kind is None:
        return b""
    number = int(digits, {"octal": 8, "decimal": 10, "listed": 10}.get(kind, 16))
    if kind in ("point", "hex", "decimal") and (in_utf8 or number > 0xFF):
        return chr(number).encode("utf-8", "replace") if number <= 0x10FFFF else b""
    return bytes([number]) if number <= 0xFF else b""


def _found(octets: bytes, known: Iterable[_Pieces]) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each piece in ``octets``."""
    for kind, left_out in enumerate(_LEFT_OUT):
        characters = octets.translate(_LOWER, left_out)
        windows = [characters[at : at + PIECE] for at in range(len(characters) - PIECE + 1)]
        for pieces in (one[kind] for one in known):
            if not pieces.isdisjoint(windows):
                kept = [at for at, octet in enumerate(octets) if octet not in left_out]
                starts = [at for at, window in enumerate(windows) if window in pieces]
                yield from ((kept[at], kept[at + PIECE - 1] + 1) for at in starts)


def _marked(text: bytes, found: list[tuple[int, int]]) -> bytes:
    marked, at = bytearray(), 0
    for start, end in sorted(found):
        if start > at or not at:
            marked += text[at:start] + MARK
        at = max(at, end)
    return bytes(marked + text[at:])
