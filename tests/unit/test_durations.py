"""The choice of test files for ``make quick``."""

from __future__ import annotations

import json
from pathlib import Path

from tests import durations


def test_the_cheapest_tests_are_chosen_until_the_time_is_full() -> None:
    tests = {"many": 100, "slow": 1, "few": 2, "new": 1}
    seconds = {"many": 10.0, "slow": 50.0, "few": 1.0, "gone": 1.0}
    for within, chosen in ((5, {"new", "few"}), (10, {"new", "many"}), (12, {"new", "many", "few"}), (99, {*tests})):
        assert durations.chosen_files(tests, durations=seconds, within=within) == chosen


def test_a_file_has_the_seconds_of_all_its_tests(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    cases = ("tests.unit.test_durations", 0.26), ("tests.unit.test_durations.TestClass", 1), ("tests.conftest", 2)
    written = "".join(f'<testcase classname="{name}" name="n" time="{time}"/>' for name, time in cases)
    report.write_text(f"<testsuites><testsuite>{written}</testsuite></testsuites>")
    assert durations.measured([report]) == {"tests/conftest.py": 2.0, "tests/unit/test_durations.py": 1.3}


def test_what_was_measured_are_files_of_tests() -> None:
    assert all(
        name.startswith("tests/") and seconds >= 0 for name, seconds in json.loads(durations.FILE.read_text()).items()
    )
