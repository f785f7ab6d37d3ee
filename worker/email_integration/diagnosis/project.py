"""Diagnose the settings with this app's system checks."""

from __future__ import annotations

from django.core import checks

from .findings import Finding, error, ok, warning

#: The sections on the cache and the server report these in more detail.
_REPORTED_ELSEWHERE = frozenset({"email_integration.W001", "email_integration.E013"})


def diagnose_settings() -> list[Finding]:
    """Return the results of ``manage.py check`` for this app, and of ``--deploy`` for the folder of the journals."""
    found = [
        (error if message.is_serious(checks.ERROR) else warning)(
            f"settings.{message.id}", str(message.msg).rstrip("."), str(message.hint or "Correct the settings.")
        )
        for message in checks.run_checks(tags=["email_integration"], include_deployment_checks=True)
        if message.id not in _REPORTED_ELSEWHERE and not message.is_silenced()
    ]
    return found or [ok("settings", "The settings are consistent")]
