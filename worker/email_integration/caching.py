"""The cache that all processes of the project share (EMAIL_INTEGRATION['CACHE'])."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from django.core.cache import BaseCache, caches
from django.core.cache.backends.db import BaseDatabaseCache
from django.core.cache.backends.dummy import DummyCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.cache.backends.redis import RedisCache
from django.db import router

from . import conf
from .django_internals import redis_cache_within
from .savepoints import savepoint


@contextlib.contextmanager
def shared_cache(*, within: float | None = None) -> Iterator[BaseCache]:
    """Yield the cache. Raises the errors of the cache, which differ between backends.

    The cache may be stored in the database and be used inside the caller's transaction. An error does not break that
    transaction. With ``within``, Django's own Redis backend waits that many seconds for each answer and does not retry,
    unless the OPTIONS of the cache set these values.
    """
    cache = caches[conf.get("CACHE")]
    if within is not None and isinstance(cache, RedisCache):
        cache = redis_cache_within(cache, within)
    with savepoint(*databases(cache)):
        yield cache


def databases(cache: BaseCache) -> tuple[str, ...]:
    """Return the aliases of the databases that ``cache`` reads and writes; an empty tuple for most caches."""
    if not isinstance(cache, BaseDatabaseCache):
        return ()
    return router.db_for_read(cache.cache_model_class), router.db_for_write(cache.cache_model_class)


def is_shared(cache: BaseCache) -> bool:
    """Return whether other processes see the values that this process stores in ``cache``."""
    return not isinstance(cache, LocMemCache | DummyCache)
