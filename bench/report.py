"""What was measured, for the eye: tables on the terminal, JSON, and ``docs/performance.md`` with its plots."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from bench.bench import Result
from bench.contenders import OURS
from bench.goals import Verdict

_HEAD = """# Performance

This project and what people would use instead, measured side by side by `make bench`: the same PostgreSQL, the same
Valkey, the same SMTP server, the same mails of 2 kB, two worker processes each where nothing else is said, every
contender in its turn. The figures are those of one run on one machine ({machine}); what carries over to other machines
is the ratios. This page is written by the benchmark.

{about}

How this project sends: a call of `send_email.delay()` writes a row in the caller's transaction. After the commit a
wake-up goes to the broker, which names a queue and no mail, and only if no other is outstanding. In a worker's process
a dispatcher claims a batch of mails in one statement. Its crew of SESSIONS threads (4) sends them, each over a
connection that stays open, and the outcomes of many mails are recorded in one statement and one commit.

## Goals

{summary} A goal is met when what is to be reached is reached; *towards* is where it is to come one day.

{goals}
{limits}
## How to read the tables

A rate counts from the first submission to the last acceptance by the SMTP server, *to the last record* goes on until
the last outcome is in the database. *Ours is* compares the rates, *by CPU* the CPU that a mail takes, which is the same
ratio where nothing but CPU is short, and does not depend on what else the machine does. CPU is in milliseconds a mail,
of whole process trees: the submitter, the worker (ours with beat), PostgreSQL, the broker; *CPU ms/mail* is their sum.
It leaves out the SMTP server, which is the same for all. Statements are those that PostgreSQL logged in a run of its
own, BEGIN, COMMIT and connection checks among them; round trips are the times a client had to wait for the SMTP server,
connecting included.

*Sessions* are the connections that mail went over, the most at a time, as the SMTP server saw them. Ours sends over
more of them than its peers do with as many processes. In bulk and from afar, where it matters most, peers have a
second line with as many sessions as ours. *Arrived* and *twice* are counted by the SMTP server: mails of all rounds,
and Message-IDs it saw again.

The SMTP server takes everything and keeps nothing. It is one of the benchmark's own, because Postfix's `smtp-sink` can
count neither Message-IDs nor round trips and offers neither STARTTLS nor CHUNKING. How much it can take is seen from
Postfix's load generator smtp-source, which shares the machine with it, and with smtp-sink in a line of its own.

The peers have the broker options that Celery gives them. Ours has kombu's `ack_emulation` off, which the others cannot
afford: a message lost with its worker is a wake-up to us, and their mail.
"""

_GOAL_COLUMNS = ("scenario", "goal", "to reach", "towards", "reached", "")

_TRIED = "What was tried beyond what is built, and why it was left, is in [decisions](decisions.md#celery)."

_ABOUT_US = """
### What a mail costs us in statements

Counted in the scenario above:

| statements a mail | statement |
| ---: | --- |
{rows}
"""


def show(result: Result) -> None:
    """Print a result."""
    print(f"\n{result.title}\n", flush=True)
    _print_table(result.columns, result.rows)
    if result.details:
        print()
        _print_table(result.detail_columns, result.details)
    print(*result.remarks, sep="\n", end="\n" if result.remarks else "", flush=True)


def show_goals(verdicts: Sequence[Verdict], titles: Mapping[str, str]) -> None:
    """Print what was aimed at and what was reached."""
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
    """A paragraph for each scenario with a goal that is not met."""
    by_name = {result.name: result for result in results}
    paragraphs = []
    for name in dict.fromkeys(verdict.goal.scenario for verdict in verdicts if verdict.is_met is False):
        text = f"- *{titles[name]}*: {by_name[name].limits}."
        if by_name[name].profiled and "profile" in by_name:
            text += f" {_hottest(by_name['profile'], by_name[name].profiled)}"
        paragraphs.append(text)
    if not paragraphs:
        return ""
    return "\n".join(("\n### What limits those that are not met\n", *paragraphs, f"\n{_TRIED}\n"))


def _hottest(profile: Result, kind: str) -> str:
    """The largest parts of each process, in words."""
    texts = []
    for group, parts in profile.data.items():
        if group.startswith(kind):
            largest = sorted(parts.items(), key=lambda part: -part[1])[:4]
            shares = ", ".join(f"`{part}` {100 * each / max(1, sum(parts.values())):.0f} %" for part, each in largest)
            texts.append(f"{group.partition(': ')[2]}: {shares}")
    return f"Its samples ({kind}) are of: {'; '.join(texts)}." if texts else ""


def write_json(results: Sequence[Result], verdicts: Sequence[Verdict], about: Mapping[str, str], file: Path) -> None:
    """Everything that was measured."""
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
    """``performance.md`` and its plots."""
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
    (docs / "performance.md").write_text("\n".join(text).rstrip() + "\n")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], alignment: str = "---:") -> str:
    lines = [columns, ("---", *(alignment for _ in columns[1:])), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def plot(result: Result) -> str:
    """Horizontal bars, ours in colour."""
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
