"""The report: tables on the terminal, JSON, and ``docs/performance.md`` with its plots."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from bench.bench import Result
from bench.contenders import OURS
from bench.goals import Verdict

_HEAD = """# Performance

`make bench` measures this project and its alternatives side by side: with the same PostgreSQL, the
same Valkey, the same SMTP server and the same mails of 2 kB. Each contender has two worker
processes, unless stated otherwise, and they run in turns. The numbers come from one run on one
machine ({machine}). Only the ratios apply to other machines. The benchmark
writes this page.

{about}

This project sends mail as follows. A call of `send_email.delay()` writes a row in the caller's
transaction. After the commit, a wake-up goes to the broker, but only if no other is outstanding. It
names a queue and no mail. In a worker's process, a dispatcher claims a batch of mails in one
statement. Its crew of SESSIONS threads (4) sends them, each over a connection that stays open. The
outcomes of many mails are recorded in one statement and one commit.

## Goals

{summary}
A goal is met when the value reached is within *to reach*. *Towards* is the long-term target.

{goals}
{limits}
## How to read the tables

A rate counts from the first submission to the last acceptance by the SMTP server. *To the last
record* counts until the last outcome is in the database. *Ours is* compares the rates. *By CPU*
compares the CPU that a mail takes. That ratio is the same where only CPU is short, and does not
depend on other work of the machine. CPU is in milliseconds a mail, of whole process trees: the
submitter, the worker (ours with beat), PostgreSQL, the broker. *CPU ms/mail* is their sum. It does
not include the SMTP server, which is the same for all. Statements are those that PostgreSQL logged
in a separate run, including BEGIN, COMMIT and connection checks. Round trips are the number of
times that a client had to wait for the SMTP server, including the connection.

*Sessions* is the highest number of connections at a time that mail was sent over, counted by the
SMTP server. With the same number of processes, ours uses more sessions than its peers. In bulk and
from afar, where this matters most, peers have a second line with eight sessions, as many as ours
has nearby. The SMTP server counts *arrived* and *twice*: the mails of all rounds, and Message-IDs
that it received again.

The SMTP server takes all mail and stores none. It is a part of the benchmark, because Postfix's
`smtp-sink` counts neither Message-IDs nor round trips and offers neither STARTTLS nor CHUNKING.
Postfix's load generator smtp-source shows the capacity of this server. It shares the machine with
it. A separate line shows smtp-source with smtp-sink.

The peers have the default broker options of Celery. Ours has kombu's `ack_emulation` off, which the
others cannot afford: a message that is lost with its worker is only a wake-up for ours, but a mail
for them.
"""

_GOAL_COLUMNS = ("scenario", "goal", "to reach", "towards", "reached", "")

_TRIED = (
    "[Decisions](decisions/celery.md#rejected-ways-to-gain-speed) lists the other ideas that were tried, and the "
    "reasons for leaving them out."
)

_ABOUT_US = """
### What a mail costs us in statements

Counted in the scenario above:

| statements a mail | statement |
| ---: | --- |
{rows}
"""


#: The longest line of prose on the page, in characters.
_COLUMNS = 100


def show(result: Result) -> None:
    """Print a result."""
    print(f"\n{result.title}\n", flush=True)
    _print_table(result.columns, result.rows)
    if result.details:
        print()
        _print_table(result.detail_columns, result.details)
    print(*result.remarks, sep="\n", end="\n" if result.remarks else "", flush=True)


def show_goals(verdicts: Sequence[Verdict], titles: Mapping[str, str]) -> None:
    """Print the goals and the measured values."""
    print("\nGoals\n")
    _print_table(_GOAL_COLUMNS, list(_goal_rows(verdicts, titles)))
    print(_summary(verdicts), flush=True)


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = [tuple(columns), *(tuple(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(columns))]
    for row in table:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells).rstrip())


def _goal_rows(
    verdicts: Sequence[Verdict], titles: Mapping[str, str], *, missed: str = "not met"
) -> Iterator[tuple[str, ...]]:
    for verdict in verdicts:
        goal = verdict.goal
        yield (
            titles[goal.scenario],
            goal.words,
            goal.bound,
            goal.beyond,
            verdict.shown,
            missed if verdict.is_met is False else verdict.words,
        )


def _summary(verdicts: Sequence[Verdict]) -> str:
    judged = [verdict for verdict in verdicts if verdict.is_met is not None]
    text = f"{sum(bool(verdict.is_met) for verdict in judged)} of {len(judged)} goals are met"
    missing = len(verdicts) - len(judged)
    return text + (f"; {missing} were not measured in this run." if missing else ".")


def _limits(verdicts: Sequence[Verdict], results: Sequence[Result], titles: Mapping[str, str]) -> str:
    """Return a paragraph for each scenario with a goal that is not met."""
    by_name = {result.name: result for result in results}
    paragraphs = []
    for name in dict.fromkeys(verdict.goal.scenario for verdict in verdicts if verdict.is_met is False):
        text = f"- *{titles[name]}*: {by_name[name].limits}."
        if by_name[name].profiled and "profile" in by_name:
            text += f" {_hottest(by_name['profile'], by_name[name].profiled)}"
        paragraphs.append(text)
    if not paragraphs:
        return ""
    return "\n".join(("\n### Limits of the goals that are not met\n", *paragraphs, f"\n{_TRIED}\n"))


def _hottest(profile: Result, kind: str) -> str:
    """Return the largest parts of each process, in words."""
    texts = []
    for group, parts in profile.data.items():
        if group.startswith(kind):
            largest = sorted(parts.items(), key=lambda part: -part[1])[:4]
            shares = ", ".join(f"`{part}` {100 * each / max(1, sum(parts.values())):.0f} %" for part, each in largest)
            texts.append(f"{group.partition(': ')[2]}: {shares}")
    return f"Its samples ({kind}) are of: {'; '.join(texts)}." if texts else ""


def write_json(results: Sequence[Result], verdicts: Sequence[Verdict], about: Mapping[str, str], file: Path) -> None:
    """Write everything that was measured."""
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = {
        "about": dict(about),
        "goals": [
            {**dataclasses.asdict(verdict.goal), "reached": verdict.reached, "met": verdict.is_met}
            for verdict in verdicts
        ],
        "results": [dataclasses.asdict(result) for result in results],
    }
    file.write_text(json.dumps(whole, indent=1) + "\n")


def write_page(
    results: Sequence[Result],
    verdicts: Sequence[Verdict],
    titles: Mapping[str, str],
    about: Mapping[str, str],
    docs: Path,
) -> None:
    """Write ``performance.md`` and its plots."""
    text = [
        _HEAD.format(
            machine=", ".join(f"{name}: {about[name]}" for name in ("CPU", "cores") if name in about),
            about=_table(("", ""), [(name, value) for name, value in about.items()], "---"),
            summary=_summary(verdicts),
            goals=_table(
                _GOAL_COLUMNS,
                list(_goal_rows(verdicts, titles, missed="**not met**")),
                "---",
            ),
            limits=_limits(verdicts, results, titles),
        )
    ]
    for result in results:
        text.append(f"\n## {result.title}\n")
        if result.words:
            text.append(f"{result.words}\n")
        if len(result.bars) > 1:
            picture = f"performance-{result.name.replace('_', '-')}.svg"
            (docs / "images" / picture).write_text(plot(result))
            text.append(f"![{result.title}: {result.unit}](images/{picture})\n")
        if result.rows:
            text.append(_table(result.columns, result.rows))
        text += [f"\n{remark}" for remark in result.remarks]
        if result.details:
            text.append("\n" + _table(result.detail_columns, result.details))
        if result.name == "one_by_one" and OURS.label in result.data:
            statements = result.data[OURS.label]["statements"]
            shown = [f"| {number:.2f} | `{_short(text)}` |" for text, number in statements.items() if number >= 0.02]
            text.append(_ABOUT_US.format(rows="\n".join(shown)))
    page = "\n".join(text).rstrip()
    (docs / "performance.md").write_text("\n".join(map(_wrapped, page.splitlines())) + "\n")


def _wrapped(line: str) -> str:
    """Return a line of prose in lines of at most ``_COLUMNS`` characters. Other lines are unchanged."""
    if line.startswith(("|", "#", "!")):
        return line
    indent = "  " if line.startswith("- ") else ""
    lines = textwrap.wrap(line, _COLUMNS, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], alignment: str = "---:") -> str:
    lines = [columns, ("---", *(alignment for _ in columns[1:])), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def plot(result: Result) -> str:
    """Return a plot with horizontal bars, ours in colour."""
    width, left, line = 820, 360, 26
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
        shown = f"{value:,.0f}" if value >= 20 else f"{value:.1f}"
        parts.append(f'<text x="{left - 8}" y="{top + 14}" text-anchor="end" fill="#333333">{escape(label)}</text>')
        parts.append(f'<rect x="{left}" y="{top}" width="{bar:.1f}" height="{line - 8}" fill="{colour}"/>')
        parts.append(f'<text x="{left + bar + 6:.1f}" y="{top + 14}" fill="#333333">{shown}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _short(statement: str) -> str:
    return statement.replace("|", "\\|").replace('"', "")[:110]
