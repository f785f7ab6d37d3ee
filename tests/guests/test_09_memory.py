"""Projects that send large attachments, and have no storage for contents: these lie in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.test_memory import times_its_size

pytestmark = pytest.mark.extra


@pytest.mark.parametrize("way", ["submit", "send_email"])
def test_submitting_takes_at_most_three_times_its_size(
    row: Callable[[str, str], None], postgresql: str, way: str
) -> None:
    row(f"large attachments by {way}, kept in PostgreSQL", "submitting takes at most three times the size in memory")
    assert times_its_size(way, "database", postgresql) <= 3.0
