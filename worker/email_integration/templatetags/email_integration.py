"""Template tags for the notices at the top of each admin page of the app."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import capfirst

from email_integration.admin import isolation, returning, routing_status, stale
from email_integration.models import SendingPause
from email_integration.timezones import exactly, local_time

register = template.Library()
register.filter("isolated", isolation.isolated)
register.filter("isolated_text", isolation.isolated_text)
register.filter("whole_addresses", isolation.whole_addresses)


@register.inclusion_tag("email_integration/notices.html", takes_context=True)
def email_notices(context: template.Context, route: bool = False) -> dict[str, Any]:
    """Return the notices that sending is paused or redirected and, with ``route``, which server sends mail."""
    paused = SendingPause.current() is not None
    request = context.get("request")
    user = getattr(request, "user", None)
    return {
        "notices": [
            *routing_status.blockers(),
            *([routing_status.route(), *routing_status.token()] if route and not paused else []),
        ],
        "may_try": user is not None and user.has_perm("email_integration.change_smtpconfig"),
        "may_pause": user is not None and user.has_perm("email_integration.pause_sending"),
        "here": returning.here(request) if request is not None else "",
        "paused": SendingPause.objects.exists(),
    }


@register.filter
def with_offset(moment: dt.datetime) -> str:
    """Return a time for machines, in ISO 8601."""
    return local_time(moment).isoformat()


@register.filter
def shown_time(moment: dt.datetime) -> SafeString:
    """Return a time for people and machines, as every page shows it."""
    return format_html('<time datetime="{}">{}</time>', with_offset(moment), exactly(moment))


@register.simple_tag
def mail_without_any() -> str:
    """Return which server sends mail if no configuration is active."""
    return str(routing_status.without_any())


@register.simple_tag
def name_cells(rows: Iterable[list[SafeString]], headers: Iterable[dict[str, Any]]) -> str:
    """Add to each of Django's cells the name of its column, for narrow screens, which do not show the head."""
    labels = [format_html(' data-label="{}"', capfirst(header["text"])) for header in headers]
    tag = len("<td")
    for row in rows:
        row[:] = [mark_safe(cell[:tag] + label + cell[tag:]) for label, cell in zip(labels, row, strict=False)]  # noqa: S308
    return ""


@register.filter
def with_seen(form: SafeString) -> SafeString:
    """Return one of Django's forms to delete, with a field that tells what its page has shown: see ``stale``."""
    field = '<input type="hidden" name="post"'
    seen = f'<input type="hidden" name="seen" value="{stale.newest_record()}">'
    return mark_safe(form.replace(field, f"{seen}{field}"))  # noqa: S308  # rendered by Django
