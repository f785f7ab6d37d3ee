"""The tests of each server. conftest takes their parameters from the SERVER of the module that imports them."""

from __future__ import annotations

from typing import Any

from .cases import cases_of
from .run import Case
from .series import carry_out, compare, row_of
from .server import Server


def test_contents_are_those_that_django_sends(
    server: Server, extensions: bool, in_bulk: bool, record_property: Any
) -> None:
    name = f"24 contents {'in bulk' if in_bulk else 'one by one'}{'' if extensions else ', no extensions'}"
    row = row_of(type(server), 1 + in_bulk + 2 * (not extensions), name, record_property)
    compare(server, extensions=extensions, in_bulk=in_bulk, row=row)


def test_all_mail_arrives(server: Server, case: Case, record_property: Any) -> None:
    place = [one.name for one in cases_of(type(server))].index(case.name)
    carry_out(case, server, row_of(type(server), 10 + place, case.name, record_property))
