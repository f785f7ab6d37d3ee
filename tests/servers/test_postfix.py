"""What Postfix does with our mail."""

from __future__ import annotations

from typing import Any

import pytest

from .cases import cases_of
from .postfix import Postfix
from .run import Case
from .series import carry_out, compare, row_of
from .server import Server

pytestmark = [pytest.mark.extra, pytest.mark.django_db(transaction=True)]

SERVER = Postfix
CASES = cases_of(SERVER)
EXTENSIONS = [True] if "extensions" in SERVER.unknown else [True, False]


@pytest.mark.parametrize("in_bulk", [False, True], ids=["one by one", "in bulk"])
@pytest.mark.parametrize("extensions", EXTENSIONS, ids=lambda given: "all extensions" if given else "no extensions")
def test_contents_are_those_that_django_sends(
    server: Server, extensions: bool, in_bulk: bool, record_property: Any
) -> None:
    name = f"24 contents {'in bulk' if in_bulk else 'one by one'}{'' if extensions else ', no extensions'}"
    row = row_of(SERVER, 1 + in_bulk + 2 * (not extensions), name, record_property)
    compare(server, extensions=extensions, in_bulk=in_bulk, row=row)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_all_mail_arrives(server: Server, case: Case, record_property: Any) -> None:
    carry_out(case, server, row_of(SERVER, 10 + CASES.index(case), case.name, record_property))
