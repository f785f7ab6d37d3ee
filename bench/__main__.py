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

#: In the order in which they run. Scenarios of one front are together, because another front restarts all processes.
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
    """The run has reached its time limit."""


def main() -> int:
    """Run the chosen scenarios."""
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
        # The rest must not be interrupted, above all the end of all processes.
        signal.alarm(0)
    about["took"] = f"{(time.monotonic() - begun) / 60:.0f} minutes, load at the end {measure.load()}"

    titles = {name: name.replace("_", " ") for name in SCENARIOS} | {result.name: result.title for result in results}
    verdicts = goals.judge(results)
    if options.scenarios:
        verdicts = [verdict for verdict in verdicts if verdict.goal.scenario in names]
    report.show_goals(verdicts, titles)
    file = ROOT / "bench" / "results" / f"{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}.json"
    report.write_json(results, verdicts, about, file)
    print(f"\n{file.relative_to(ROOT)} contains all measurements.")
    if options.page or not (options.quick or options.scenarios):
        report.write_page(results, verdicts, titles, about, ROOT / "docs")
        print("docs/performance.md is written.")
    print(*bench.wrong, sep="\n", end="\n" if bench.wrong else "", file=sys.stderr)
    return 1 if bench.wrong else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="scenario", help=f"{', '.join(SCENARIOS)}; by default all")
    parser.add_argument("--quick", action="store_true", help="about two minutes, with few mails and rounds")
    parser.add_argument("--rounds", type=int, help="maximum number of rounds")
    parser.add_argument("--minutes", type=int, help="stop after this time, and report the results so far")
    parser.add_argument("--page", action="store_true", help="write docs/performance.md even if the run is not complete")
    for name, words in (
        ("steady_mails", "mails through one worker"),
        ("finished_rows", "finished rows in the table"),
        ("queued_mails", "bulk mails that are queued before an urgent one"),
        ("held_mails", "mails sent during an open transaction"),
    ):
        default = f"{words}; {getattr(WHOLE, name):,}, or {getattr(QUICK, name):,} with --quick"
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="NUMBER", help=default)
    options = parser.parse_args()
    for name in options.scenarios:
        if name not in SCENARIOS:
            parser.error(f"{name} is not a scenario; choose from {', '.join(SCENARIOS)}")
    for program in ("smtp-source", "smtp-sink", "stunnel4"):
        if shutil.which(program) is None:
            parser.error(f"{program} is not installed; install the packages in bench/debian-packages.txt")
    return options


def _end_after(minutes: int) -> None:
    def end(number: int, frame: FrameType | None) -> None:
        raise _OutOfTime

    signal.signal(signal.SIGALRM, end)
    signal.alarm(60 * minutes)


def _run(bench: Bench, names: Iterable[str]) -> list[Result]:
    """Return the result of every scenario. A scenario that fails is reported, and the others continue."""
    results: list[Result] = []
    for name in names:
        began = time.monotonic()
        try:
            result = SCENARIOS[name](bench)
        except Exception:
            traceback.print_exc()
            bench.wrong.append(f"{name} failed: {traceback.format_exc().splitlines()[-1]}")
            # The processes may be in any state, so the next scenario starts new ones.
            bench.end()
            continue
        except _OutOfTime:
            bench.wrong.append(f"the time limit ended the run during {name}")
            break
        # For a scenario that is a function, the first line of its docstring describes it.
        result.words = result.words or (SCENARIOS[name].__doc__ or "").strip().splitlines()[0]
        result.data["took"] = time.monotonic() - began
        results.append(result)
        report.show(result)
        print(f"({result.data['took']:.0f} s)", flush=True)
    return results


def _about(bench: Bench, load: str) -> dict[str, str]:
    """Return the size, the date, the machine and the versions of the run."""
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
