"""The columns of the list of deliveries. Each cell works without a mouse, and at the width of a phone."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.contrib import admin
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import Truncator
from django.utils.timesince import timesince, timeuntil
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from email_integration.ledger import rows
from email_integration.models import Delivery, Status
from email_integration.outcomes.causes import Cause
from email_integration.timezones import aware, exactly

from .filters import shown_id
from .isolation import isolated
from .next_tries import next_attempt
from .typing import DeliveryModelAdmin

#: Longest text in a cell, in characters.
_SHORT_TEXT = 60

#: An empty cell; left out on a phone, where there are no columns.
_NONE = mark_safe('<span class="email-none">–</span>')

#: The icon of each status: the colour of a badge is not its only sign.
_ICONS = {
    Status.PREPARED: "○",
    Status.QUEUED: "○",
    Status.SENDING: "►",
    Status.ACCEPTED: "✓",
    Status.DEFERRED: "↻",
    Status.FAILED: "✕",
    Status.EXPIRED: "✕",
    Status.IN_DOUBT: "?",
    Status.CANCELLED: "–",
    Status.QUARANTINED: "!",
}


def badge(delivery: Delivery) -> SafeString:
    """Return the status with its colour and icon. A damaged row may have any status."""
    status = delivery.current_status
    icon = _ICONS.get(status, "") if status in Status.values else ""  # type: ignore[call-overload]
    return format_html(
        '<span class="email-badge {}"><span aria-hidden="true">{}</span> {}</span>',
        status if icon else "",
        icon,
        delivery.get_current_status_display(),
    )


class ListColumns(DeliveryModelAdmin):
    """The columns. ``DeliveryAdmin.get_list_display`` chooses those that the user may see."""

    @admin.display(description="ID")
    def short_id(self, delivery: Delivery) -> SafeString:
        """Return the end of the id, which distinguishes mails that were submitted at the same time."""
        return format_html('<span title="{}">{}</span>', delivery.pk, shown_id(delivery.pk))

    @admin.display(description=gettext_lazy("status"))
    def state(self, delivery: Delivery) -> SafeString:
        """Return the status, with its reason in one line."""
        why = (
            format_html('<span class="email-reason" title="{0}">{0}</span>', delivery.reason) if delivery.reason else ""
        )
        return format_html("{}{}", badge(delivery), why)

    @admin.display(description=gettext_lazy("subject"))
    def subject_line(self, delivery: Any) -> SafeString | str:
        """Return the subject, for users who may see it. It is kept when the content is not.

        A column with the name of the field would show the sealed text.
        """
        subject = getattr(delivery, "shown_subject", None)
        if not subject:
            return _("cannot be decrypted") if delivery.subject else "–"
        return isolated(subject, Truncator(subject).chars(_SHORT_TEXT))

    @admin.display(description=gettext_lazy("recipients"))
    def addresses(self, delivery: Delivery) -> SafeString | str:
        """Return the first address, and the number of the others."""
        if not rows.is_readable(delivery):
            return "–"
        first, *others = (item["address"] for item in delivery.recipients)
        more = format_html(" +{}", len(others)) if others else ""
        return format_html("{}{}{}", isolated(first, Truncator(first).chars(_SHORT_TEXT)), more, _marks(delivery))

    @admin.display(description=gettext_lazy("recipients"))
    def recipient_count(self, delivery: Delivery) -> SafeString | str:
        """Return the number of recipients, for users who may not see their addresses."""
        if not rows.is_readable(delivery):
            return "–"
        return format_html("{}{}", len(delivery.recipients), _marks(delivery))

    @admin.display(description=gettext_lazy("next attempt"))
    def next_attempt(self, delivery: Delivery) -> SafeString | str:
        """Return the time until the next attempt, or 'now' if it is due."""
        due_at = next_attempt(delivery)
        when = _NONE
        if due_at is not None:
            waits = due_at > timezone.now()
            text = _("in %(time)s") % {"time": timeuntil(due_at, depth=1)} if waits else _("now")
            when = _moment(due_at, text)
        count = delivery.attempts
        made = ngettext("%(count)d attempt", "%(count)d attempts", count) % {"count": count} if count else ""
        return format_html('{}<span class="email-mark">{}</span>', when, made)

    @admin.display(description=gettext_lazy("age"), ordering="-created_at")
    def age(self, delivery: Delivery) -> SafeString:
        """Return the time since submission."""
        return _moment(delivery.created_at, timesince(delivery.created_at, depth=1))

    @admin.display(description=gettext_lazy("configuration"))
    def server_and_priority(self, delivery: Delivery) -> SafeString:
        """Return the configuration of the last attempt, and the priority."""
        name = delivery.smtp_config
        config = format_html('<span title="{}">{}</span>', name, isolated(name)) if name else _NONE
        return format_html('{}<span class="email-mark">{}</span>', config, delivery.get_priority_display())


def _moment(moment: dt.datetime, text: str) -> SafeString:
    return format_html('<time datetime="{}" title="{}">{}</time>', aware(moment).isoformat(), exactly(moment), text)


def _marks(delivery: Delivery) -> SafeString:
    """Return whether the mail was redirected to others than its recipients."""
    withheld = sum(item.get("cause") == Cause.WITHHELD for item in delivery.recipients)
    marks = [
        *([_("redirected")] if delivery.redirected_to else []),
        *([_("withheld from %(count)d") % {"count": withheld}] if withheld else []),
    ]
    return format_html_join("", '<span class="email-mark">{}</span>', ((mark,) for mark in marks))
