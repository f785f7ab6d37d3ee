"""Add a table row for each attack: its file is the way, and the name of its test is the attack."""

from __future__ import annotations

import re

import pytest

from tests.integration.conftest import task_queue  # noqa: F401  # a fixture
from tests.integration.test_admin_auth import clock  # noqa: F401  # a fixture too
from tests.tables import ATTACKS

#: The name of each way, by the number in the name of its file.
ITEMS = {
    1: "decryption oracle",
    2: "lost refresh tokens",
    3: "pages that a mail breaks",
    4: "filters that read hidden fields",
    5: "preview bomb",
    6: "secrets in error mails",
    7: "login limit",
    8: "echoed AUTH lines",
    9: "stored secret without TLS",
    10: "proxies and references",
    11: "accepted bad input",
}


def pytest_itemcollected(item: pytest.Item) -> None:
    """Add the row to each attack of this folder."""
    found = re.match(r"test_(\d+)_", item.path.name)
    if found and item.path.parent.name == "attacks":
        number = int(found[1])
        attack = item.name.removeprefix("test_").replace("_", " ")
        item.user_properties.append((ATTACKS, [number, ITEMS[number], attack]))
