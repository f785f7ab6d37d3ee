"""Run the whole matrix, or the cases whose names contain a given text, and print the table."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback

from config.local.processes import unwind_on_signals

from . import matrix
from .cases import Case, Counts, run_case
from .world import Worlds

_COLUMNS = ("submitted", "arrived", "refused", "lost", "duplicated", "in_doubt", "held", "stuck")


def main() -> int:
    """Run the cases. Returns 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("texts", nargs="*", help="only the cases with one of these texts in their names")
    parser.add_argument("--logs", action="store_true", help="show what the processes wrote when a case fails")
    options = parser.parse_args()
    unwind_on_signals()
    started = time.monotonic()
    width = max(len(str(case)) for case in matrix.CASES)
    print(f"{'':{width}} ", *(f"{column.replace('_', ' '):>11}" for column in _COLUMNS), "    seconds", sep="")
    wanted = [case for case in matrix.CASES if not options.texts or any(text in str(case) for text in options.texts)]
    done: dict[Case, Counts] = {}
    broken = 0
    for setting, cases in matrix.by_setting(wanted):
        if setting.missing:
            for case in cases:
                print(f"{case!s:{width}}  not run: {setting.missing}")
            broken += len(cases) if os.environ.get("CI") else 0
            continue
        with Worlds(setting) as worlds:
            for case in cases:
                promises = _run(worlds, case, done, width)
                if promises:
                    broken += 1
                    print(f"{'':{width}}  {'; '.join(promises)}", flush=True)
                    if options.logs:
                        print(worlds.current().logs())
                    worlds.leave()
    groups = dict.fromkeys(case.group for case in done)
    for group in groups if len(groups) > 1 else ():
        _sum_up(f"{group}: ", [counts for case, counts in done.items() if case.group == group], width)
        print()
    _sum_up("", list(done.values()), width)
    print(f"{time.monotonic() - started:>11.0f}")
    print("All promises were kept." if not broken else f"{broken} cases broke a promise.")
    return 1 if broken else 0


def _run(worlds: Worlds, case: Case, done: dict[Case, Counts], width: int) -> list[str]:
    try:
        counts = run_case(worlds.current(), case)
    except Exception as error:
        print(f"{case!s:{width}}  {type(error).__name__}: {error}", flush=True)
        traceback.print_exc(file=sys.stdout)
        return ["the case did not run"]
    done[case] = counts
    numbers = (f"{getattr(counts, column):>11}" for column in _COLUMNS)
    print(f"{case!s:{width}} ", *numbers, f"{counts.seconds:>11.1f}", sep="")
    for remark in counts.remarks:
        print(f"{'':{width}}  {remark}")
    sys.stdout.flush()
    return counts.broken(case)


def _sum_up(what: str, done: list[Counts], width: int) -> None:
    total = (sum(getattr(counts, column) for counts in done) for column in _COLUMNS)
    print(f"{f'{what}{len(done)} cases':{width}} ", *(f"{number:>11}" for number in total), sep="", end="")


if __name__ == "__main__":
    sys.exit(main())
