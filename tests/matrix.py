"""Run 'make test-pair' on pairs of a Python and a Django, and print a table of the results.

It needs no environment: 'make test-pair' creates the environment of each pair.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: The lines of a run that name failures: pytest's list of failed tests, and make's failed parts.
_FAILED = re.compile(
    r"(?:FAILED|ERROR) (?P<test>tests/[^\[]*?(?:\[.*?\])?)(?: - .*)?"
    r"|make.*\*\*\* \[(?:.*: )?pair-(?P<part>\S+)\] .*"
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of one pair."""

    #: The word in the table: 'passed', 'failed' or 'not found'.
    word: str
    #: The duration of the pair, in minutes.
    minutes: float = 0.0
    #: The names of the failed tests and parts.
    failed: Sequence[str] = ()

    def __str__(self) -> str:
        """Return the table's cell."""
        return self.word if self.word == "not found" else f"{self.word} {self.minutes:.1f} min"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the pairs one after the other. Returns 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("--pairs", required=True, help="such as '3.11-5.2 3.13-6.1'")
    parser.add_argument("--parts", required=True, help="such as 'unit demo'")
    options = parser.parse_args(arguments)
    if not options.pairs.split():
        parser.error("there is no pair in --pairs")
    results: dict[tuple[str, str], Result] = {}
    for pair in options.pairs.split():
        python, _, django = pair.partition("-")
        results[python, django] = _run(python, django, options.parts)
    print(f"\n{table(results)}")
    for (python, django), result in results.items():
        for name in result.failed:
            print(f"failed on Python {python} with Django {django}: {name}")
    return 1 if any(result.word == "failed" for result in results.values()) else 0


def table(results: dict[tuple[str, str], Result]) -> str:
    """Return the table: a row for each Python, a column for each Django, '-' for a pair that was not selected."""
    pythons, djangos = ([*dict.fromkeys(names)] for names in zip(*results, strict=True))
    rows = [["", *(f"Django {django}" for django in djangos)]]
    for python in pythons:
        cells = (results.get((python, django)) for django in djangos)
        rows.append([f"Python {python}", *("-" if cell is None else str(cell) for cell in cells)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _run(python: str, django: str, parts: str) -> Result:
    print(f"\n=== Python {python}, Django {django}", flush=True)
    interpreter = f"python{python}"
    if not _is_found(interpreter):
        print(f"not found: {interpreter} does not run, or comes without ssl or venv", flush=True)
        return Result(word="not found")
    started = time.monotonic()
    command = ["make", "test-pair", f"PYTHON={interpreter}", f"DJANGO={django}", f"PARTS={parts}"]
    # Make's variables for its children belong to the make that runs this program.
    env = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    failed = []
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as making:
        assert making.stdout is not None
        for line in making.stdout:
            print(line, end="", flush=True)
            if name := failed_name(line):
                failed.append(name)
    minutes = (time.monotonic() - started) / 60
    if making.returncode == 0:
        return Result(word="passed", minutes=minutes)
    return Result(word="failed", minutes=minutes, failed=failed or ["see its output"])


def failed_name(line: str) -> str | None:
    """Return the name of the failed test or part in this line of a run, or None."""
    found = _FAILED.fullmatch(line.rstrip())
    return found and (found["test"] or found["part"])


def _is_found(interpreter: str) -> bool:
    """Return whether this Python runs and can create an environment. pyenv's commands exist even if they do not run."""
    try:
        done = subprocess.run([interpreter, "-c", "import ssl, venv"], capture_output=True, check=False, timeout=60)
    except OSError:
        return False
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
