"""The ids of deliveries have the standard's form, sort by time, and are all different."""

from __future__ import annotations

import time
import uuid

import pytest

from email_integration.queue.submission import new_id


def test_an_id_is_a_uuid_of_version_seven_that_begins_with_the_time() -> None:
    """RFC 9562 §5.7: 48 bits of milliseconds since 1970, the version, the variant, and random bits."""
    before = time.time_ns() // 1_000_000
    found = uuid.UUID(new_id())
    after = time.time_ns() // 1_000_000
    assert (found.version, found.variant) == (7, uuid.RFC_4122)
    assert before <= found.int >> 80 <= after


def test_ids_differ_in_all_that_is_left_to_chance() -> None:
    """Each of the 74 random bits varies within a thousand ids, except with a probability of 1 in 2**990."""
    found = [uuid.UUID(new_id()).int for _ in range(1000)]
    assert len(set(found)) == len(found)
    ever, always = 0, -1
    for one in found:
        ever, always = ever | one, always & one
    chance = (1 << 80) - 1 & ~(0xF << 76) & ~(0b11 << 62)
    assert ever & chance == chance
    assert not always & chance


def test_a_later_id_is_greater(monkeypatch: pytest.MonkeyPatch) -> None:
    """This holds for the text too, which the database compares."""
    found = []
    for milliseconds in (1, 2, 1_000_000, 1_800_000_000_000):
        monkeypatch.setattr(time, "time_ns", lambda: milliseconds * 1_000_000)  # noqa: B023
        found.append(new_id())
    assert found == sorted(found)
