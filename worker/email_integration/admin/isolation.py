"""Show texts of others, with letters and controls of any direction, without effect on the text around them."""

from __future__ import annotations

import re
import unicodedata

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

#: Characters that begin an isolate, and the one that ends it (Unicode Standard Annex #9).
_BEGIN, _END = "\u2066\u2067\u2068", "\u2069"

#: Classes of characters that can change the order of the text around them.
_TURNING = {"R", "AL", "AN", "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}

#: A word that can be an address. It has no controls of direction, so that each is outside of the element of an address.
_WORD = re.compile('([^\\s<>(),;:"“”„«»\u202a-\u202e\u2066-\u2069]+)')


def isolated(text: object, shown: object | None = None) -> SafeString:
    """Return a text of others as an element that isolates it.

    With ``shown``, this shorter text is displayed and the whole one is its title.
    """
    if shown is None or shown == text:
        return format_html("<bdi>{}</bdi>", whole_addresses(_balanced(str(text))))
    return format_html('<bdi title="{}">{}</bdi>', _encodable(str(text)), _balanced(str(shown)))


def isolated_text(text: object) -> str:
    """Return a text of others, isolated without an element if it needs to be: for titles and sentences."""
    text = _encodable(str(text))
    if all(unicodedata.bidirectional(character) not in _TURNING for character in text):
        return text
    return f"\u2068{_balanced(text)}{_END}"


def whole_addresses(text: object) -> SafeString:
    """Return a text with an element around each address, which is broken over two lines only if it is longer than one.

    The words around an address have no effect on its direction, and it has none on theirs.
    """
    return format_html_join("", "{}", ((_address(word),) for word in _WORD.split(str(text))))


def _address(word: str) -> SafeString | str:
    return format_html('<span class="email-address">{}</span>', word) if "@" in word[1:] else word


def _balanced(text: str) -> str:
    """Return ``text`` with an end for each isolate that it begins, and no other.

    Such an end, and the end of a paragraph, would also end the element that isolates the text.
    """
    kept, depth = [], 0
    for character in _encodable(text):
        if character == _END and not depth:
            continue
        depth += (character in _BEGIN) - (character == _END)
        kept.append(" " if unicodedata.bidirectional(character) == "B" else character)
    return "".join(kept) + depth * _END


def _encodable(text: str) -> str:
    """Return ``text`` with '?' for halves of surrogate pairs, which JSON can contain and a page cannot."""
    return text.encode("utf-8", "replace").decode()
