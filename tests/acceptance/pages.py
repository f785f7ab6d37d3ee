"""The code blocks of a documentation page, without the blocks for other versions of Django."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import django

#: A fenced block, with the paragraph before it.
_BLOCK = re.compile(r"(?:^(?P<before>[^\n`#][^\n]*)\n\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.MULTILINE | re.DOTALL)

#: How the paragraph before a block for some versions of Django begins: 'On Django 6.1 or newer, …'.
_ON_DJANGO = re.compile(r"On Django (?P<first>\d+\.\d+)(?: and (?P<second>\d+\.\d+)|(?P<newer> or newer)), ")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block. ``before`` is the paragraph before it; it is empty between consecutive blocks."""

    before: str
    kind: str
    text: str


def blocks(text: str) -> Iterator[Block]:
    """Yield the blocks of a page that apply to the Django in use, in their order."""
    for found in _BLOCK.finditer(text):
        before = found["before"] or ""
        if _is_for_this_django(before):
            yield Block(before=_ON_DJANGO.sub("", before), kind=found["kind"], text=found["text"])


def examples(page: Path) -> list[str]:
    """Return the Python blocks of a page that apply to the Django in use."""
    return [block.text for block in blocks(page.read_text()) if block.kind == "python"]


def _is_for_this_django(paragraph: str) -> bool:
    named = _ON_DJANGO.match(paragraph)
    if named is None:
        # A differently worded sentence would let a block run on a version that it is not for.
        assert not paragraph.startswith("On Django"), paragraph
        return True
    first = _version(named["first"])
    return django.VERSION[:2] >= first if named["newer"] else django.VERSION[:2] in (first, _version(named["second"]))


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))
