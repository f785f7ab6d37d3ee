"""Diagnose the blockers: settings and states that hold mail back or redirect it on purpose."""

from __future__ import annotations

from django.db import DatabaseError

from email_integration import conf
from email_integration.models import Delivery, SendingPause, Status
from email_integration.timezones import local_time

from .findings import Finding, counted, info, ok, warning


def diagnose_blockers() -> list[Finding]:
    """Report the pause, the redirection, the allow-list, and how much mail is waiting."""
    found = [*_settings(), *_rows()]
    return found or [ok("blockers", "No mail is held or redirected")]


def _settings() -> list[Finding]:
    found = []
    if conf.get("EMAIL_PAUSED"):
        found.append(
            warning(
                "pause",
                "Sending is paused by EMAIL_PAUSED: mail is accepted and waits",
                "Unset EMAIL_PAUSED, and restart all processes.",
            )
        )
    if conf.get("REDIRECT_ALL_TO"):
        found.append(
            warning(
                "redirect",
                f"All mail goes to {_listed('REDIRECT_ALL_TO')} instead of its recipients (REDIRECT_ALL_TO)",
                "This is right for a copy of production only. In production, leave it empty.",
            )
        )
    if conf.get("ALLOWED_RECIPIENTS"):
        found.append(
            warning(
                "allowed",
                f"Mail goes only to {_listed('ALLOWED_RECIPIENTS')} (ALLOWED_RECIPIENTS)",
                "This is right for a copy of production only. In production, leave it empty.",
            )
        )
    return found


def _rows() -> list[Finding]:
    try:
        found = []
        pause = None if conf.get("EMAIL_PAUSED") else SendingPause.current()
        if pause is not None:
            by = f" by {pause.by.get_username()}" if pause.by else ""
            reason = f" ({pause.reason})" if pause.reason else ""
            found.append(
                warning(
                    "pause",
                    f"Sending has been paused since {local_time(pause.since):%Y-%m-%d %H:%M}{by}{reason}: mail is "
                    "accepted and waits",
                    "Run `manage.py resume_email`.",
                )
            )
        waiting = Delivery.objects.filter(status=Status.DEFERRED, waits_for_relay=True).count()
        if waiting:
            found.append(info("waiting", f"{counted(waiting, 'delivery waits', 'deliveries wait')} for a server"))
        held = Delivery.objects.filter(status__in=(Status.IN_DOUBT, Status.QUARANTINED)).count()
    except DatabaseError:  # reported under 'database'
        return []
    if held:
        found.append(
            warning(
                "held",
                f"{counted(held, 'delivery is', 'deliveries are')} in doubt or quarantined",
                "See Deliveries in the admin.",
            )
        )
    return found


def _listed(key: str) -> str:
    value = conf.get(key)
    return value if isinstance(value, str) else ", ".join(map(str, value))
