"""The settings, by this app's system checks."""

from __future__ import annotations

from django.core import checks

from .findings import Finding, error, ok, warning

#: Reported at more length where the cache is tried, and where the server is.
_REPORTED_ELSEWHERE = frozenset({"email_integration.W001", "email_integration.E013"})


def diagnose_settings() -> list[Finding]:
    """What ``manage.py check`` says about this app, and with ``--deploy`` about the place of the journals."""
    found = [
        (error if message.is_serious(checks.ERROR) else warning)(
            f"settings.{message.id}", str(message.msg).rstrip("."), str(message.hint or "Correct the settings.")
        )
        for message in checks.run_checks(tags=["email_integration"], include_deployment_checks=True)
        if message.id not in _REPORTED_ELSEWHERE and not message.is_silenced()
    ]
    return found or [ok("settings", "The settings fit together")]
