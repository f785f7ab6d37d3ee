"""What was measured, for the eye: tables on the terminal, JSON, and ``docs/performance.md`` with its plots."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from bench.bench import Result
from bench.contenders import OURS

_HEAD = """# Performance

This project and what people would use instead, measured side by side by `make bench`: the same PostgreSQL, the same
Valkey, the same SMTP server, the same mails of 2 kB, two worker processes each, every contender in its turn. The
figures are those of one run on the machine below; what carries over to other machines is the ratios. This page is
written by the benchmark.

{about}

How to read the tables: a rate counts from the first submission to the last acceptance by the SMTP server, *to the last
record* goes on until the last outcome is in the database. *Ours is* compares the rates, *by CPU* the CPU that a mail
takes, which is the same ratio where nothing but CPU is short, and does not depend on what else the machine does. CPU is
in milliseconds a mail, of whole process trees; *all* leaves out the SMTP server, which is nobody's. Statements are
those that PostgreSQL logged in a run of its own, BEGIN, COMMIT and connection checks among them; round trips are the
times a client had to wait for the SMTP server, connecting included. Memory is that of the worker, ours with beat.
*Arrived* and *twice* are counted by the SMTP server: mails of all rounds, and Message-IDs it saw again.
"""

_ABOUT_US = """
## What a mail costs us in statements

Counted in the scenario “one by one”:

| statements a mail | statement |
| ---: | --- |
{rows}
"""


def show(result: Result) -> None:
    """Print a result."""
    print(f"\n{result.title}\n", flush=True)
    table = [tuple(result.columns), *(tuple(row) for row in result.rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(result.columns))]
    for row in table:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells).rstrip())
    for remark in result.remarks:
        print(remark)


def write_json(results: Sequence[Result], about: Mapping[str, str], file: Path) -> None:
    """Everything that was measured."""
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = {"about": dict(about), "results": [dataclasses.asdict(result) for result in results]}
    file.write_text(json.dumps(whole, indent=1) + "\n")


def write_page(results: Sequence[Result], about: Mapping[str, str], docs: Path) -> None:
    """``performance.md`` and its plots."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in about.items())
    text = [_HEAD.format(about=f"| | |\n| --- | --- |\n{rows}")]
    for result in results:
        text.append(f"\n## {result.title}\n")
        if len(result.bars) > 1:
            picture = f"performance-{result.name.replace('_', '-')}.svg"
            (docs / "images" / picture).write_text(plot(result))
            text.append(f"![{result.title}: {result.unit}](images/{picture})\n")
        text.append("| " + " | ".join(result.columns) + " |")
        text.append("| --- " + "| ---: " * (len(result.columns) - 1) + "|")
        text += ["| " + " | ".join(row) + " |" for row in result.rows]
        text += [f"\n{remark}" for remark in result.remarks]
        if result.name == "one_by_one":
            statements = result.data.get(OURS.label, {}).get("statements", {})
            shown = [f"| {number:.2f} | `{_short(text)}` |" for text, number in statements.items() if number >= 0.02]
            text.append(_ABOUT_US.format(rows="\n".join(shown)))
    (docs / "performance.md").write_text("\n".join(text).rstrip() + "\n")


def plot(result: Result) -> str:
    """Horizontal bars, ours in colour."""
    width, left, line = 760, 300, 26
    longest = max(result.bars.values())
    height = 44 + line * len(result.bars)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        ' font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="20" fill="#333333" font-weight="bold">{escape(result.title)} - {escape(result.unit)}</text>',
    ]
    for number, (label, value) in enumerate(sorted(result.bars.items(), key=lambda item: -item[1])):
        top = 34 + line * number
        bar = max(1.0, (width - left - 80) * value / longest)
        colour = "#1f6feb" if "this project" in label else "#c3c8cf"
        figure = f"{value:,.0f}" if value >= 20 else f"{value:.1f}"
        parts.append(f'<text x="{left - 8}" y="{top + 14}" text-anchor="end" fill="#333333">{escape(label)}</text>')
        parts.append(f'<rect x="{left}" y="{top}" width="{bar:.1f}" height="{line - 8}" fill="{colour}"/>')
        parts.append(f'<text x="{left + bar + 6:.1f}" y="{top + 14}" fill="#333333">{figure}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _short(statement: str) -> str:
    return statement.replace("|", "\\|").replace('"', "")[:110]
