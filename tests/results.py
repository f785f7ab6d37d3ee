"""Celery's results in another backend than the settings name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from celery import current_app

from config.local.valkey import Valkey

#: The database of Valkey that stores results.
RESULTS = 1


@contextlib.contextmanager
def results_kept_in(url: str) -> Iterator[None]:
    """Store this process's results in the backend of this URL while the block runs."""
    before = current_app.conf.result_backend
    _keep_results_in(url)
    try:
        yield
    finally:
        if hasattr(current_app.backend, "client"):
            # A result that is collected later would connect again to unsubscribe.
            current_app.backend.result_consumer.stop()
            current_app.backend.result_consumer.subscribed_to.clear()
            current_app.backend.client.connection_pool.disconnect()
        _keep_results_in(before)


def url_of_results(valkey: Valkey) -> str:
    """Return the URL of a result backend beside the broker and the cache."""
    return f"{valkey.url.rpartition('/')[0]}/{RESULTS}"


def _keep_results_in(url: str) -> None:
    current_app.conf.result_backend = url
    current_app._backend_cache = None
    vars(current_app._local).pop("backend", None)
