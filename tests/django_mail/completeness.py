"""No mail test of Django is missed: each class is run or listed as left out, and each listed one exists."""

# ruff: noqa: PT009 - not for pytest, but for Django's runner

from __future__ import annotations

import unittest
from types import ModuleType
from typing import Any

from .left_out import CLASSES_LEFT_OUT, LEFT_OUT, NOT_THE_SAME
from .same_bytes import SameBytes
from .through import tests_left_out_of


class Completeness:
    """Checks for a ``TestCase`` of a module with suites."""

    #: The names in that module.
    ours: dict[str, Any]
    #: The modules of Django's tests.
    djangos: list[ModuleType]

    def test_each_class_of_djangos_is_run_or_left_out(self) -> None:
        run = {base for cls in _test_cases_of(self.ours) for base in cls.__mro__}
        theirs = [cls for module in self.djangos for cls in _test_cases_of(vars(module))]
        self.assertEqual({cls.__name__ for cls in theirs if cls not in run}, set(CLASSES_LEFT_OUT))

    def test_each_test_that_is_left_out_is_there(self) -> None:
        there = set()
        for cls in _test_cases_of(self.ours):
            for name in tests_left_out_of(cls):
                there |= {name, f"{cls.__name__}.{name}"}
        self.assertEqual(set(LEFT_OUT) - there, set())

    def test_each_test_whose_mail_differs_is_there(self) -> None:
        there = {name for cls in _test_cases_of(self.ours) if issubclass(cls, SameBytes) for name in dir(cls)}
        self.assertEqual(set(NOT_THE_SAME) - there, set())


def _test_cases_of(names: dict[str, Any]) -> list[type[unittest.TestCase]]:
    return [value for value in names.values() if isinstance(value, type) and issubclass(value, unittest.TestCase)]
