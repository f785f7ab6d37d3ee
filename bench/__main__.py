"""``python -m bench``: run the scenarios, print tables, write JSON and, for a whole run, ``docs/performance.md``."""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.metadata
import platform
import shutil
import sys
import time
from collections.abc import Callable

from bench import measure, report, singular, throughput
from bench.bench import Bench, Result
from bench.environments import ROOT
from bench.profile import profile
from bench.services import Services
from config.local.processes import unwind_on_signals

#: In the order in which they run: those of one front together, for it is changed by starting everybody anew.
SCENARIOS: dict[str, Callable[[Bench], Result]] = {
    throughput.ONE_BY_ONE.name: throughput.ONE_BY_ONE,
    "publishing": singular.publishing,
    "profile": profile,
    "configuration": singular.configuration,
    "idle": singular.idle,
    throughput.BULK.name: throughput.BULK,
    "large": singular.large,
    "steady": singular.steady,
    "finished_rows": singular.finished_rows,
    throughput.TLS.name: throughput.TLS,
    throughput.FAR_PLAIN.name: throughput.FAR_PLAIN,
    throughput.FAR_BULK.name: throughput.FAR_BULK,
    throughput.FAR.name: throughput.FAR,
    "switch": singular.switch,
}

#: Too slow for two minutes.
NOT_QUICK = {"steady", "finished_rows", "far_plain", "far_bulk", "tls"}


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="scenario", help=f"of {', '.join(SCENARIOS)}; by default all")
    parser.add_argument("--quick", action="store_true", help="about two minutes, with few mails and rounds")
    parser.add_argument("--rounds", type=int, help="how often each contender has its turn")
    parser.add_argument("--page", action="store_true", help="write docs/performance.md though it is not a whole run")
    options = parser.parse_args()
    for name in options.scenarios:
        if name not in SCENARIOS:
            parser.error(f"{name} is no scenario; there are {', '.join(SCENARIOS)}")
    for name in ("smtp-source", "stunnel4"):
        if shutil.which(name) is None:
            parser.error(f"{name} is not installed; bench/debian-packages.txt says what is needed")
    names = options.scenarios or [name for name in SCENARIOS if not (options.quick and name in NOT_QUICK)]
    unwind_on_signals()

    results: list[Result] = []
    begun, load = time.monotonic(), measure.load()
    with Services() as services, Bench(services, quick=options.quick, rounds=options.rounds) as bench:
        about = _about(bench, load)
        print(*(f"{name}: {value}" for name, value in about.items()), sep="\n", flush=True)
        for name in SCENARIOS:
            if name in names:
                results.append(SCENARIOS[name](bench))
                report.show(results[-1])
    about["took"] = f"{(time.monotonic() - begun) / 60:.0f} minutes, load at the end {measure.load()}"
    file = ROOT / "bench" / "results" / f"{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}.json"
    report.write_json(results, about, file)
    print(f"\nAll that was measured is in {file.relative_to(ROOT)}.")
    if options.page or not (options.quick or options.scenarios):
        report.write_page(results, about, ROOT / "docs")
        print("docs/performance.md is written.")
    print(*bench.wrong, sep="\n", end="", file=sys.stderr)
    return 1 if bench.wrong else 0


def _about(bench: Bench, load: str) -> dict[str, str]:
    """What is measured, when and on what."""
    versions = {name: importlib.metadata.version(name) for name in ("Django", "celery", "kombu", "redis", "psycopg")}
    return {
        "run": "quick: few mails and rounds" if bench.quick else "whole",
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
