"""Access to metrics: whether they are available, and who may read them."""

from __future__ import annotations

import importlib.util

from django.utils.crypto import constant_time_compare

from email_integration import conf

MISSING = "prometheus_client is not installed; run pip install 'celery-mail-dispatch[metrics]'"


def is_installed() -> bool:
    """Return whether ``prometheus_client`` is installed, without importing it."""
    return importlib.util.find_spec("prometheus_client") is not None


def is_allowed(authorization: str) -> bool:
    """Return whether an ``Authorization`` header carries METRICS_TOKEN (RFC 6750 §2.1), compared in constant time.

    Without a token, access is always denied.
    """
    token = conf.get("METRICS_TOKEN")
    scheme, _, given = authorization.partition(" ")
    return bool(token) and scheme.lower() == "bearer" and constant_time_compare(given.strip(), token)
