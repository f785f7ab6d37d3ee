"""Learned properties of servers. After a row is deleted, they are learned again."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from email_integration.models import PipeliningQuirk, ServerQuirks, SMTPConfig
from email_integration.routing.quirks import KEPT
from email_integration.timezones import exactly

from .lookups import RestrictedLookups
from .sensitive import SensitiveViews
from .typing import QuirksModelAdmin


def of_configuration(config: SMTPConfig) -> ServerQuirks | None:
    """Return the learned properties that mail through ``config`` uses now."""
    rows = ServerQuirks.objects.filter(smtp_config=config.name, host=config.host)
    return rows.filter(learned_at__gt=timezone.now() - KEPT).order_by("-learned_at").first()


def words(row: ServerQuirks) -> str:
    """Return all properties in one line, and when they were learned."""
    return _limits(row) + " (" + _("found out %(when)s") % {"when": exactly(row.learned_at)} + ")"


def _limits(row: ServerQuirks) -> str:
    said = []
    if row.pipelining != PipeliningQuirk.FULL:
        said.append(_("several commands at once: %(how)s") % {"how": row.get_pipelining_display()})
    if row.mails:
        said.append(_("mails per session: %(number)s") % {"number": row.mails})
    if row.recipients:
        said.append(_("recipients per transaction: %(number)s") % {"number": row.recipients})
    return "; ".join(said)


@admin.register(ServerQuirks)
class ServerQuirksAdmin(SensitiveViews, RestrictedLookups, QuirksModelAdmin):
    """A page to view and delete the rows. Only the SMTP session writes them."""

    list_display = ("smtp_config", "host", "limits", "learned")
    list_display_links = None

    @admin.display(description=gettext_lazy("learned about the server"))
    def limits(self, row: ServerQuirks) -> str:
        return _limits(row) or "–"

    @admin.display(description=gettext_lazy("learned at"), ordering="learned_at")
    def learned(self, row: ServerQuirks) -> str:
        return exactly(row.learned_at)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
