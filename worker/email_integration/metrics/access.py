"""Whether metrics can be had at all, and by whom."""

from __future__ import annotations

import importlib.util

from django.utils.crypto import constant_time_compare

from email_integration import conf

MISSING = "prometheus_client is not installed: pip install 'celery-mail-dispatch[metrics]'"


def is_installed() -> bool:
    """Whether there is a ``prometheus_client``; does not import it."""
    return importlib.util.find_spec("prometheus_client") is not None


def is_allowed(authorization: str) -> bool:
    """Whether a header ``Authorization`` carries METRICS_TOKEN (RFC 6750 §2.1), compared in constant time.

    Nobody is allowed while there is no token.
    """
    token = conf.get("METRICS_TOKEN")
    scheme, _, given = authorization.partition(" ")
    return bool(token) and scheme.lower() == "bearer" and constant_time_compare(given.strip(), token)
