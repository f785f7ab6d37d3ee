"""Who is told when something goes wrong."""

from __future__ import annotations

from django.db import DatabaseError

from email_integration import conf
from email_integration.models import SMTPConfig

from .findings import Finding, error, ok, warning


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
