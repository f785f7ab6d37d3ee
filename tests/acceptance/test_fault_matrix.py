"""The fault matrix: compares submitted mails with the mails in the server's mailbox, under every kind of fault.

'make test-extra' runs a part of it that a seed chooses (``FAULTS_SEED``). The other cases are not tests: 'make faults'
(``python -m tests.faults``) runs all cases and makes a table.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pytest

from tests.faults import matrix
from tests.faults.cases import Case, run_case
from tests.faults.world import Setting, Worlds

pytestmark = pytest.mark.extra

_FIRST, _FURTHER = matrix.parts(int(os.environ.get("FAULTS_SEED", "1")))


@pytest.fixture(scope="class")
def worlds(request: pytest.FixtureRequest) -> Iterator[Worlds]:
    """The worlds of the class's setting."""
    setting: Setting = request.cls.setting
    if setting.missing:
        if os.environ.get("CI"):
            pytest.fail(f"{setting.missing}; see tests/debian-packages.txt")
        pytest.skip(setting.missing)
    with Worlds(setting) as worlds:
        yield worlds


class _OfOneSetting:
    """Cases that share a world. They are in a class because random ordering keeps the tests of a class together."""

    setting: Setting

    def test_nothing_is_lost_and_nothing_doubled(self, worlds: Worlds, case: Case) -> None:
        """Every mail is settled, each surplus copy follows a doubt, and there is none where a doubt means hold."""
        world = worlds.current()
        start = len(world.logs())
        broken = ["the case could not be run"]
        try:
            counts = run_case(world, case)
            print(case, counts)
            broken = counts.broken(case)
        finally:
            if broken:
                print(world.logs()[start:])
                worlds.leave()
        assert not broken


def _tests(number: int, setting: Setting, cases: Sequence[Case]) -> type[_OfOneSetting]:
    """Return the test class of a setting."""
    parameters = [pytest.param(case, id=f"{case.group}: {case.name}") for case in cases]
    made = type(f"TestSetting{number}", (_OfOneSetting,), {"setting": setting, "__module__": __name__})
    return pytest.mark.parametrize("case", parameters)(made)


for number, (setting, cases) in enumerate(matrix.by_setting([*_FIRST, *_FURTHER]), start=1):
    globals()[f"TestSetting{number}"] = _tests(number, setting, cases)
