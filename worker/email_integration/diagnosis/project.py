"""The settings, by this app's system checks, and who is told when something goes wrong."""

from __future__ import annotations

from django.core import checks
from django.db import DatabaseError

from email_integration import conf
from email_integration.models import SMTPConfig

from .findings import Finding, error, ok, warning

#: Told at more length where the cache is tried, and where the server is.
_TOLD_ELSEWHERE = frozenset({"email_integration.W001", "email_integration.E013"})


def project_settings() -> list[Finding]:
    """What ``manage.py check`` says about this app."""
    found = [
        (error if message.is_serious(checks.ERROR) else warning)(
            f"settings.{message.id}", str(message.msg).rstrip("."), str(message.hint or "Correct the settings.")
        )
        for message in checks.run_checks(tags=["email_integration"])
        if message.id not in _TOLD_ELSEWHERE and not message.is_silenced()
    ]
    return found or [ok("settings", "The settings fit together")]


def telling() -> list[Finding]:
    """Whether the configuration that alerts are written by is there, and is another than what they may be about."""
    name = conf.get("ALERT_CONFIGURATION")
    if not name:
        return []
    try:
        config = SMTPConfig.objects.filter(name=name).first()
    except DatabaseError:  # said with the configuration
        return []
    if config is None:
        text = f"There is no SMTP configuration “{name}”, by which ALERT_CONFIGURATION has alerts written to ADMINS"
        return [error("alerts", text, "Make it in the admin, or name another.")]
    if config.is_active:
        text = f"Alerts are written by “{name}” (ALERT_CONFIGURATION), which is the active configuration"
        return [warning("alerts", text, "Name another, which works when this one does not.")]
    return [ok("alerts", f"Alerts are written to ADMINS by “{name}”")]
