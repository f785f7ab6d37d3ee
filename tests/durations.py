"""The durations of the test files, and a run of those that fit into a time in seconds: ``pytest --within 150``.

``durations.json`` has the seconds of each file's tests in a run. ``make durations`` rewrites it. If a file takes longer
than recorded, the run takes longer too.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILE = Path(__file__).with_suffix(".json")

_left_out = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--within",
        type=float,
        metavar="SECONDS",
        help="run those files of tests that together take so long on one processor, as many tests as possible",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_left_out] = 0


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect files that take too long, and report their number to the controller process."""
    within = config.getoption("--within")
    if within is None:
        return
    tests = Counter(_name(item.path) for item in items)
    chosen = chosen_files(tests, durations=json.loads(FILE.read_text()), within=within)
    left_out = [item for item in items if _name(item.path) not in chosen]
    items[:] = [item for item in items if _name(item.path) in chosen]
    config.hook.pytest_deselected(items=left_out)
    config.stash[_left_out] = len(left_out)
    if hasattr(config, "workeroutput"):
        config.workeroutput["left_out"] = len(left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object, error: object) -> None:
    """Take the number from a pytest-xdist worker. All workers have selected from the same tests."""
    config, output = getattr(node, "config"), getattr(node, "workeroutput", {})  # noqa: B009  # it has no type
    config.stash[_left_out] = max(config.stash[_left_out], output.get("left_out", 0))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--within") is not None:
        terminalreporter.write_line(f"left out: {config.stash[_left_out]} tests, which take longer")


def chosen_files(tests: Mapping[str, int], *, durations: Mapping[str, float], within: float) -> set[str]:
    """Return the files to run: first those with the least time per test, until ``within`` seconds are full.

    ``tests`` is the number of tests of each file, and ``durations`` its seconds. Files without a known duration are
    always included.
    """
    chosen = {name for name in tests if name not in durations}
    left = within
    for name in sorted(tests.keys() & durations.keys(), key=lambda name: (durations[name] / tests[name], name)):
        if durations[name] <= left:
            chosen.add(name)
            left -= durations[name]
    return chosen


def measured(reports: Iterable[Path]) -> dict[str, float]:
    """Return the seconds of each file from JUnit reports, rounded to tenths."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for report in reports:
        for case in ElementTree.parse(report).iter("testcase"):
            seconds[_file_of(case.attrib["classname"])] += float(case.attrib["time"])
    return {name: round(seconds[name], 1) for name in sorted(seconds)}


def _file_of(classname: str) -> str:
    """Return the file of a dotted name, which may end with the name of a class."""
    parts = classname.split(".")
    while parts and not (ROOT / "/".join(parts)).with_suffix(".py").exists():
        parts.pop()
    return "/".join(parts) + ".py"


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()


if __name__ == "__main__":
    FILE.write_text(json.dumps(measured(map(Path, sys.argv[1:])), indent=0) + "\n")
