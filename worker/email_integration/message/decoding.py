"""Decode octets from untrusted senders to text. Each function returns text that can be displayed, and none raises.

Octets that cannot be decoded become a replacement character (U+FFFD).
"""

from __future__ import annotations

import binascii
import itertools
import re
from encodings import normalize_encoding
from encodings.aliases import aliases

_REPLACEMENT = "\ufffd"

#: Characters that a page cannot hold or a reader cannot see: controls, and surrogates, which UTF-7 can produce.
_UNSHOWABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")

#: Python codecs that are not charsets, or that exist only on some machines.
_NO_CHARSETS = frozenset({"base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "rot_13", "uu_codec", "zlib_codec"})
_NO_CHARSETS |= {"mbcs", "oem", "tactis"}

#: Charsets that have only one name, and names that the standard library does not know.
_BY_ONE_NAME = ("cp720", "cp737", "cp856", "cp874", "cp875", "cp1006", "koi8_t", "koi8_u", "utf_8_sig")
_MORE_NAMES = {"windows_874": "cp874", "iso_8859_8_i": "iso8859_8", "iso_8859_8_e": "iso8859_8", "x_sjis": "shift_jis"}

#: Codecs by normalized charset name. No other name is looked up: some of Python's codecs raise ('idna', 'undefined') or
#: take quadratic time ('punycode'), and Python keeps every name that is looked up forever.
_CHARSETS = {
    **{codec: codec for codec in {*aliases.values(), *_BY_ONE_NAME}},
    **aliases,
    **_MORE_NAMES,
}
_CHARSETS = {name: codec for name, codec in _CHARSETS.items() if codec not in _NO_CHARSETS}

#: Characters of the name of a charset.
_LONGEST_CHARSET = 40

#: An encoded word (RFC 2047 §2), with an optional language (RFC 2231 §5).
_WORD = re.compile(rb"=\?([^?\s]*)\?([bq])\?([^?]*)\?=", re.I)

_PARAMETER = re.compile(rb';\s*([^\s;="*]+)(?:\*(\d{1,3}))?(\*)?\s*=\s*("(?:[^"\\]|\\.)*"|[^;"]*)', re.S)
_MOST_PARAMETERS = 200


def text(data: bytes, charset: str) -> str:
    """Return ``data`` as text in ``charset``, or in UTF-8 when there is no such charset."""
    name = normalize_encoding(charset.lower()) if charset.isascii() and len(charset) <= _LONGEST_CHARSET else ""
    try:
        decoded = data.decode(_CHARSETS.get(name, "utf-8"), "replace")
    except (LookupError, ValueError):  # this Python lacks the codec, or the codec lacks 'replace'
        decoded = data.decode("utf-8", "replace")
    return _UNSHOWABLE.sub(_REPLACEMENT, decoded)


def header(value: bytes) -> str:
    """Return the unfolded value of a header in readable form (RFC 2047, RFC 6532).

    A word that cannot be decoded stays unchanged.
    """
    pieces: list[tuple[str | None, bytes]] = []
    at = 0
    for found in _WORD.finditer(value):
        data = _of_word(found[2], found[3])
        if data is None:
            continue
        between = value[at : found.start()]
        # Blanks between two encoded words do not belong to the text (RFC 2047 §6.2).
        if between.strip() or not pieces or pieces[-1][0] is None:
            pieces.append((None, between))
        charset = found[1].partition(b"*")[0].decode("latin-1").lower()
        if pieces[-1][0] == charset:  # some senders split a character between two words, against the RFC
            pieces[-1] = (charset, pieces[-1][1] + data)
        else:
            pieces.append((charset, data))
        at = found.end()
    pieces.append((None, value[at:]))
    return "".join(text(data, charset or "utf-8") for charset, data in pieces)


def _of_word(how: bytes, data: bytes) -> bytes | None:
    if how in b"qQ":
        return binascii.a2b_qp(data, header=True)
    try:
        return binascii.a2b_base64(data + b"=" * (-len(data) % 4))
    except binascii.Error:
        return None


def transferred(data: bytes, encoding: str) -> bytes:
    """Return ``data`` without its transfer encoding (RFC 2045 §6), or unchanged when MIME has no such encoding."""
    if encoding == "quoted-printable":
        return binascii.a2b_qp(data)
    if encoding != "base64":
        return data
    try:
        return binascii.a2b_base64(data)
    except binascii.Error:  # truncated, or with characters outside the alphabet
        kept = data.translate(None, _NOT_BASE64)
        return binascii.a2b_base64(kept[: len(kept) - (len(kept) % 4 == 1)] + b"==")


_NOT_BASE64 = bytes(octet for octet in range(256) if not (chr(octet).isascii() and chr(octet).isalnum()))
_NOT_BASE64 = _NOT_BASE64.replace(b"+", b"").replace(b"/", b"")


def parameters(value: bytes) -> tuple[str, dict[str, str]]:
    """Return the value of a structured header in lower case, and its parameters (RFC 2045 §5.1, RFC 2231)."""
    plain: dict[str, bytes] = {}
    extended: dict[str, list[tuple[int, bool, bytes]]] = {}
    for found in itertools.islice(_PARAMETER.finditer(value), _MOST_PARAMETERS):
        name = found[1].decode("latin-1").lower()
        given = found[4].strip()
        if given.startswith(b'"'):
            given = re.sub(rb"\\(.)", rb"\1", given[1:-1], flags=re.S)
        if found[2] is None and found[3] is None:
            plain.setdefault(name, given)
        else:
            extended.setdefault(name, []).append((int(found[2] or 0), found[3] is not None, given))
    decoded = {name: header(given) for name, given in plain.items()}
    decoded |= {name: _joined(parts) for name, parts in extended.items()}
    return value.partition(b";")[0].strip().decode("latin-1").lower(), decoded


def _joined(parts: list[tuple[int, bool, bytes]]) -> str:
    """Return one value joined from its parts. Only the first part names the charset (RFC 2231 §4.1)."""
    charset, octets = "utf-8", b""
    for number, (_place, is_encoded, part) in enumerate(sorted(parts)):
        if is_encoded and number == 0 and part.count(b"'") >= 2:
            named, _language, part = part.split(b"'", 2)
            charset = named.decode("latin-1")
        octets += _unquoted(part) if is_encoded else part
    return text(octets, charset)


def _unquoted(part: bytes) -> bytes:
    return re.sub(rb"%([0-9a-fA-F]{2})", lambda found: bytes([int(found[1], 16)]), part)
