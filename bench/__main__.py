"""``python -m bench``: run the scenarios, print tables, write JSON and, for a whole run, ``docs/performance.md``."""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.metadata
import platform
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import FrameType

from bench import goals, measure, report, singular, throughput
from bench.bench import QUICK, WHOLE, Bench, Result
from bench.dead_rows import finished_rows, open_transaction
from bench.environments import ROOT
from bench.killed_workers import killed
from bench.lone_mail import lone
from bench.priorities import urgent_behind_bulk
from bench.profiling import profile
from bench.rate_limit import limited
from bench.services import Services
from config.local.processes import unwind_on_signals

#: In the order in which they run: those of one front together, for it is changed by starting everybody anew.
SCENARIOS: dict[str, Callable[[Bench], Result]] = {
    throughput.ONE_BY_ONE.name: throughput.ONE_BY_ONE,
    "lone": lone,
    "publishing": singular.publishing,
    "configuration": singular.configuration,
    "idle": singular.idle,
    throughput.BULK.name: throughput.BULK,
    "profile": profile,
    "large": singular.large,
    "steady": singular.steady,
    "finished_rows": finished_rows,
    "open_transaction": open_transaction,
    throughput.TLS.name: throughput.TLS,
    throughput.FAR_PLAIN.name: throughput.FAR_PLAIN,
    throughput.FAR_BULK.name: throughput.FAR_BULK,
    throughput.FAR.name: throughput.FAR,
    "switch": singular.switch,
    "priorities": urgent_behind_bulk,
    "limited": limited,
    "killed": killed,
}

#: Too slow for two minutes.
NOT_QUICK = {
    "profile",
    "steady",
    "finished_rows",
    "far_plain",
    "far_bulk",
    "tls",
    "switch",
    "priorities",
    "limited",
    "killed",
}


class _OutOfTime(BaseException):
    """The run has taken as long as it may."""


def main() -> int:
    """Run what was asked for."""
    options = _options()
    names = options.scenarios or [name for name in SCENARIOS if not (options.quick and name in NOT_QUICK)]
    scale = replace(
        QUICK if options.quick else WHOLE,
        **{name: given for name in vars(WHOLE) if (given := getattr(options, name)) is not None},
    )
    unwind_on_signals()
    _end_after(options.minutes or (12 if options.quick else 45))

    begun, load = time.monotonic(), measure.load()
    with Services() as services, Bench(services, quick=options.quick, rounds=options.rounds, scale=scale) as bench:
        about = _about(bench, load)
        print(*(f"{name}: {value}" for name, value in about.items()), sep="\n", flush=True)
        results = _run(bench, [name for name in SCENARIOS if name in names])
        # What follows is to be done whole, the end of all processes before all.
        signal.alarm(0)
    about["took"] = f"{(time.monotonic() - begun) / 60:.0f} minutes, load at the end {measure.load()}"

    titles = {name: name.replace("_", " ") for name in SCENARIOS} | {result.name: result.title for result in results}
    verdicts = goals.judge(results)
    if options.scenarios:
        verdicts = [verdict for verdict in verdicts if verdict.goal.scenario in names]
    report.show_goals(verdicts, titles)
    file = ROOT / "bench" / "results" / f"{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}.json"
    report.write_json(results, verdicts, about, file)
    print(f"\nAll that was measured is in {file.relative_to(ROOT)}.")
    if options.page or not (options.quick or options.scenarios):
        report.write_page(results, verdicts, titles, about, ROOT / "docs")
        print("docs/performance.md is written.")
    print(*bench.wrong, sep="\n", end="\n" if bench.wrong else "", file=sys.stderr)
    return 1 if bench.wrong else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="scenario", help=f"of {', '.join(SCENARIOS)}; by default all")
    parser.add_argument("--quick", action="store_true", help="about two minutes, with few mails and rounds")
    parser.add_argument("--rounds", type=int, help="how often each contender has its turn, at most")
    parser.add_argument("--minutes", type=int, help="end after so many, with what is measured by then")
    parser.add_argument("--page", action="store_true", help="write docs/performance.md though it is not a whole run")
    for name, words in (
        ("steady_mails", "through one worker"),
        ("finished_rows", "finished rows in the table"),
        ("queued_mails", "in bulk, queued before an urgent one"),
        ("held_mails", "beside an open transaction"),
    ):
        default = f"{words}; {getattr(WHOLE, name):,}, or {getattr(QUICK, name):,} with --quick"
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="NUMBER", help=default)
    options = parser.parse_args()
    for name in options.scenarios:
        if name not in SCENARIOS:
            parser.error(f"{name} is no scenario; there are {', '.join(SCENARIOS)}")
    for program in ("smtp-source", "smtp-sink", "stunnel4"):
        if shutil.which(program) is None:
            parser.error(f"{program} is not installed; bench/debian-packages.txt says what is needed")
    return options


def _end_after(minutes: int) -> None:
    def end(number: int, frame: FrameType | None) -> None:
        raise _OutOfTime

    signal.signal(signal.SIGALRM, end)
    signal.alarm(60 * minutes)


def _run(bench: Bench, names: Iterable[str]) -> list[Result]:
    """Every scenario's result. One that breaks is told of, and the others go on."""
    results: list[Result] = []
    for name in names:
        began = time.monotonic()
        try:
            result = SCENARIOS[name](bench)
        except Exception:
            traceback.print_exc()
            bench.wrong.append(f"{name} broke: {traceback.format_exc().splitlines()[-1]}")
            # Whatever state they are in, the next ones begin anew.
            bench.end()
            continue
        except _OutOfTime:
            bench.wrong.append(f"out of time at {name}")
            break
        # A scenario that is a function says in its first line what it measures.
        result.words = result.words or (SCENARIOS[name].__doc__ or "").strip().splitlines()[0]
        result.data["took"] = time.monotonic() - began
        results.append(result)
        report.show(result)
        print(f"({result.data['took']:.0f} s)", flush=True)
    return results


def _about(bench: Bench, load: str) -> dict[str, str]:
    """What is measured, when and on what."""
    versions = {name: importlib.metadata.version(name) for name in ("Django", "celery", "kombu", "redis", "psycopg")}
    return {
        "run": "quick: few mails and rounds" if bench.quick else "whole",
        "scale": str(bench.scale),
        "date": f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC",
        **measure.machine(),
        "load at the beginning": load,
        "Python": platform.python_version(),
        "PostgreSQL": bench.services.postgresql.version(),
        "Valkey": bench.services.broker("valkey_version"),
        "packages": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "rounds": f"{bench.rounds} at most",
    }


if __name__ == "__main__":
    sys.exit(main())
