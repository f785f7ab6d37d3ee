"""What a server means by a reply: the cause, in this order.

1. A rule of a provider's own, which names code, enhanced code and phrase (``providers``).
2. The enhanced code, where it names one thing (``codes``).
3. General words, where the numbers leave a choice (``words``).
4. The numbers alone (``codes``).
"""

from __future__ import annotations

import re

from email_integration.smtp import Phase, Reply

from . import codes, providers, words
from .causes import Cause


def recognise(phase: Phase, reply: Reply) -> Cause:
    """Return what ``reply`` to what was said in ``phase`` means."""
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
    """Say why ``reply`` refused what was said in ``phase``: at most 255 characters, ending with the codes."""
    cause = recognise(phase, reply)
    said = f"{_WHAT.get(phase, 'the connection')} was {_DONE[cause]}" if cause in _DONE else cause.words
    return f"{said} ({reply.short})"


def quote(reply: Reply) -> str:
    """Return the server's text as one line of at most 500 characters; it may hold addresses."""
    return f"{reply.enhanced} {_one_line(reply.text)}".strip()[:500]


_DONE = {Cause.REFUSED: "refused", Cause.PUT_OFF: "put off"}

_WHAT = {
    Phase.MAIL: "the sender",
    Phase.RCPT: "the recipient",
    Phase.DATA: "the mail",
    Phase.CONTENT: "the mail",
    Phase.FINAL_DOT: "the mail",
}

#: Servers repeat the enhanced code in front of each line.
_REPEATED = re.compile(r"^#?[245]\.\d{1,3}\.\d{1,3}[:;,]?(?:\s|$)", re.M)
#: An address can hold any word. It begins where a word does: a search from the middle of each would take its time.
_ADDRESS = re.compile(r"<[^<>\s@]*@[^<>]*>|(?<![^\s<>])[^\s<>@]+@[^\s<>]+")
#: qmail and its heirs have the enhanced code at the end.
_AT_THE_END = re.compile(r"#([45]\.\d{1,3}\.\d{1,3})\)")


def _one_line(text: str) -> str:
    # A reply can be megabytes long. NUL, which PostgreSQL does not take, and what plays tricks on screens go as well.
    text = _REPEATED.sub("", text[:4000])
    if not text.isprintable():
        text = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(text.split())


def _comparable(reply: Reply) -> str:
    """Return the words without addresses."""
    return _ADDRESS.sub("", _one_line(reply.text)[:1000])


def _enhanced(reply: Reply, text: str) -> str:
    """Return the enhanced code, also one at the end if it is of the code's class; '' for none."""
    at_the_end = _AT_THE_END.search(text)
    if not reply.enhanced and at_the_end and at_the_end[1][0] == str(reply.code)[0]:
        return at_the_end[1]
    return reply.enhanced


def _by_codes_and_words(phase: Phase, reply: Reply, enhanced: str, text: str) -> Cause | None:
    """Return what the enhanced code, or a code that is as precise, lets the words make of it; None for nothing.

    That a token was refused says more than any words.
    """
    meaning = codes.meaning(phase, reply.code, enhanced)
    if reply.to_token and (meaning is None or Cause.TOKEN in meaning.among):
        return Cause.TOKEN
    if meaning is None:
        return words.recognise(phase, reply.code, enhanced, text)
    return words.recognise(phase, reply.code, enhanced, text, among=meaning.among) or meaning.cause
