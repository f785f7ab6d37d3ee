"""The cause of a server's reply, found in this order.

1. A provider's own rule, which names code, enhanced code and phrase (``providers``).
2. The enhanced code, where it has one meaning (``codes``).
3. General words, where the numbers leave a choice (``words``).
4. The numbers alone (``codes``).
"""

from __future__ import annotations

import re

from email_integration.smtp import Phase, Reply

from . import codes, providers, words
from .causes import Cause


def recognise(phase: Phase, reply: Reply) -> Cause:
    """Return the cause of a ``reply`` in ``phase``."""
    if not 400 <= reply.code < 600:
        return Cause.OUT_OF_TURN
    text = _comparable(reply)
    enhanced = _enhanced(reply, text)
    return (
        providers.recognise(phase, reply.code, enhanced, text)
        or _by_codes_and_words(phase, reply, enhanced, text)
        or codes.by_numbers(phase, reply.code, enhanced)
        or (Cause.REFUSED if reply.permanent else Cause.PUT_OFF)
    )


def reason(phase: Phase, reply: Reply) -> str:
    """Return the reason of a ``reply`` that refused in ``phase``: at most 255 characters, ending with the codes."""
    cause = recognise(phase, reply)
    said = f"{_WHAT.get(phase, 'the connection')} was {_DONE[cause]}" if cause in _DONE else cause.words
    return f"{said} ({reply.short})"


def quote(reply: Reply) -> str:
    """Return the server's text as one line of at most 500 characters; it may contain addresses."""
    return f"{reply.enhanced} {_one_line(reply.text)}".strip()[:500]


_DONE = {Cause.REFUSED: "refused", Cause.PUT_OFF: "temporarily refused"}

_WHAT = {
    Phase.MAIL: "the sender",
    Phase.RCPT: "the recipient",
    Phase.DATA: "the mail",
    Phase.CONTENT: "the mail",
    Phase.FINAL_DOT: "the mail",
}

#: Servers repeat the enhanced code at the beginning of each line.
_REPEATED = re.compile(r"^#?[245]\.\d{1,3}\.\d{1,3}[:;,]?(?:\s|$)", re.M)
#: An address can contain any word. The match begins where a word begins: a search from the middle of words would be
#: slow.
_ADDRESS = re.compile(r"<[^<>\s@]*@[^<>]*>|(?<![^\s<>])[^\s<>@]+@[^\s<>]+")
#: qmail and its derivatives have the enhanced code at the end.
_AT_THE_END = re.compile(r"#([45]\.\d{1,3}\.\d{1,3})\)")


def _one_line(text: str) -> str:
    # A reply can be megabytes long. NUL, which PostgreSQL does not accept, and characters that disturb a display are
    # replaced.
    text = _REPEATED.sub("", text[:4000])
    if not text.isprintable():
        text = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(text.split())


def _comparable(reply: Reply) -> str:
    """Return the words without addresses."""
    return _ADDRESS.sub("", _one_line(reply.text)[:1000])


def _enhanced(reply: Reply, text: str) -> str:
    """Return the enhanced code, also one at the end if it has the code's class; '' for none."""
    at_the_end = _AT_THE_END.search(text)
    if not reply.enhanced and at_the_end and at_the_end[1][0] == str(reply.code)[0]:
        return at_the_end[1]
    return reply.enhanced


def _by_codes_and_words(phase: Phase, reply: Reply, enhanced: str, text: str) -> Cause | None:
    """Return the cause by the enhanced code, or an equally precise code, and the words that it allows; else None.

    The refusal of a token says more than any words.
    """
    meaning = codes.meaning(phase, reply.code, enhanced)
    if reply.to_token and (meaning is None or Cause.TOKEN in meaning.among):
        return Cause.TOKEN
    if meaning is None:
        return words.recognise(phase, reply.code, enhanced, text)
    return words.recognise(phase, reply.code, enhanced, text, among=meaning.among) or meaning.cause
