"""The mark that every sweep leaves in the shared cache: how anybody can tell that something sweeps."""

from __future__ import annotations

import logging
import time

from django.core.cache import caches

from email_integration import conf

logger = logging.getLogger(__name__)

KEY = "email_integration:swept"


def leave_mark() -> None:
    """Say that a sweep was made now. Never raises: sweeping matters, the mark does not."""
    try:
        caches[conf.get("CACHE")].set(KEY, time.time(), timeout=None)
    except Exception as error:  # every cache backend has exceptions of its own
        logger.debug("The sweep could not leave its mark in the cache (%s).", type(error).__name__)


def last_mark() -> float | None:
    """When the last sweep was made, in seconds since the epoch by the clock of its host; None if none is known.

    Raises what the cache raises.
    """
    found = caches[conf.get("CACHE")].get(KEY)
    return float(found) if found is not None else None
