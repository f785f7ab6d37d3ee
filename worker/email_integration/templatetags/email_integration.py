"""Template tags for the notices at the top of each admin page of the app."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django import template

from email_integration.admin import routing_status
from email_integration.models import SendingPause
from email_integration.timezones import local_time

register = template.Library()


@register.inclusion_tag("email_integration/notices.html", takes_context=True)
def email_notices(context: template.Context, route: bool = False) -> dict[str, Any]:
    """Return the notices that sending is paused or redirected and, with ``route``, which server sends mail."""
    paused = SendingPause.current() is not None
    user = getattr(context.get("request"), "user", None)
    return {
        "notices": [
            *routing_status.blockers(),
            *([routing_status.route(), *routing_status.token()] if route and not paused else []),
        ],
        "may_try": user is not None and user.has_perm("email_integration.change_smtpconfig"),
        "may_pause": user is not None and user.has_perm("email_integration.pause_sending"),
        "paused": SendingPause.objects.exists(),
    }


@register.filter
def with_offset(moment: dt.datetime) -> str:
    """Return a time for machines, in ISO 8601."""
    return local_time(moment).isoformat()


@register.simple_tag
def mail_without_any() -> str:
    """Return which server sends mail if no configuration is active."""
    return str(routing_status.without_any())
