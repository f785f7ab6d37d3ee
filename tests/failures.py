"""The names of the tests that failed, in a file: several runs of pytest, two at a time, end with one list of them.

``TEST_FAILURES`` names the file; the Makefile shows it at the end. A line is added as soon as a test has failed, so
that the names are there whatever ends the run.
"""

from __future__ import annotations

import os

import pytest

VARIABLE = "TEST_FAILURES"

#: What a run may be of beside its tests: the same test runs on several databases and brokers.
_OF = ("TEST_DATABASE", "TEST_BROKER")


def pytest_configure(config: pytest.Config) -> None:
    """Note failures if there is a file for them. A worker of pytest-xdist does not: its controller has its reports."""
    file = os.environ.get(VARIABLE)
    if file and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Failures(file))


class Failures:
    """Adds a line to ``file`` for each failure: the test's name, where it ran if not as usual, and what was wrong."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._where = "".join(f" on {os.environ[name]}" for name in _OF if os.environ.get(name))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that failed, or could not be set up or tidied."""
        if report.failed:
            self._note(report.nodeid if report.when == "call" else f"{report.nodeid} ({report.when})", _error(report))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a file that could not be read."""
        if report.failed:
            self._note(report.nodeid, _error(report))

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Note a run that ended for another reason than its tests."""
        if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
            self._note("pytest", f"ended with {exitstatus}")

    def _note(self, name: str, error: str) -> None:
        descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            # In one write, so that the lines of two runs do not mix.
            os.write(descriptor, f"{name}{self._where}: {error}\n".encode(errors="backslashreplace"))
        finally:
            os.close(descriptor)


def _error(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The first line of the error, or of what there is."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else report.longreprtext.strip().rpartition("\n")[2]
    return (text.splitlines() or [""])[0][:300]
