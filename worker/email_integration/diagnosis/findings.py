"""The findings of a diagnosis, as values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """The severity of a finding."""

    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def mark(self) -> str:
        """Return the mark before the finding's line."""
        return _MARKS[self]


_MARKS = {Level.OK: "✓", Level.INFO: "ℹ", Level.WARNING: "⚠", Level.ERROR: "✗"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of a diagnosis.

    ``check`` is a stable name for programs. ``hint`` says how to fix the problem.
    """

    check: str
    level: Level
    text: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.level.mark} {self.text}" + (f". {self.hint}" if self.hint else "")


@dataclass(frozen=True, kw_only=True)
class Section:
    """Findings under one heading, in paragraphs separated by a blank line."""

    title: str
    findings: tuple[Finding, ...] = ()
    #: Further findings with their own headings.
    parts: tuple[Section, ...] = field(default=())

    def all(self) -> Iterable[Finding]:
        """Return all findings, including those of the parts."""
        yield from self.findings
        for part in self.parts:
            yield from part.all()


def ok(check: str, text: str) -> Finding:
    return Finding(check=check, level=Level.OK, text=text)


def info(check: str, text: str, hint: str = "") -> Finding:
    return Finding(check=check, level=Level.INFO, text=text, hint=hint)


def warning(check: str, text: str, hint: str) -> Finding:
    return Finding(check=check, level=Level.WARNING, text=text, hint=hint)


def error(check: str, text: str, hint: str) -> Finding:
    return Finding(check=check, level=Level.ERROR, text=text, hint=hint)


def counted(number: int, one: str, many: str) -> str:
    """Return a number with the noun in singular or plural."""
    return f"{number} {one if number == 1 else many}"


def has_errors(sections: Sequence[Section]) -> bool:
    """Return whether an error prevents sending."""
    return any(finding.level is Level.ERROR for section in sections for finding in section.all())


def as_text(sections: Sequence[Section]) -> str:
    """Return the sections as numbered text for people."""
    blocks = []
    for number, section in enumerate(sections, start=1):
        blocks.append([f"{number}. {section.title}...", *(f"   {finding}" for finding in section.findings)])
        blocks.extend(
            [f"   {part.title}...", *(f"   {finding}" for finding in part.findings)] for part in section.parts
        )
    return "\n\n".join("\n".join(block) for block in blocks)


def as_data(sections: Sequence[Section]) -> dict[str, Any]:
    """Return the sections for programs, with stable names and without marks."""
    return {
        "ok": not has_errors(sections),
        "findings": [asdict(finding) for section in sections for finding in section.all()],
    }
