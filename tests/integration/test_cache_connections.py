"""The connections of a thread to the cache end with it."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest
from django.core.cache import caches

from config.local.processes import PATIENCE
from email_integration.caching import shared_cache


@pytest.mark.parametrize("within", [None, PATIENCE])
def test_the_connections_of_a_thread_are_closed_when_it_ends(within: float | None) -> None:
    """Not only when garbage is collected, which may be much later."""
    connections: list[weakref.ref[Any]] = []

    def ask() -> None:
        with shared_cache(within=within) as cache:
            cache.get("nothing")
            client: Any = cache
            pool = client._cache.get_client().connection_pool
            connections.extend(map(weakref.ref, pool._available_connections))

    gc.disable()
    try:
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(PATIENCE)
        assert connections
        assert [found() for found in connections] == [None] * len(connections)
    finally:
        gc.enable()
    assert caches["default"].get("nothing") is None, "the connections of this thread have changed"
