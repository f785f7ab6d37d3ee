"""Learned properties of servers. After a row is deleted, they are learned again."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _

from email_integration.models import PipeliningQuirk, ServerQuirks, SMTPConfig
from email_integration.routing.quirks import KEPT
from email_integration.timezones import local_time

from .lookups import RestrictedLookups
from .sensitive import SensitiveViews
from .typing import QuirksModelAdmin


def of_configuration(config: SMTPConfig) -> ServerQuirks | None:
    """Return the learned properties that mail through ``config`` uses now."""
    rows = ServerQuirks.objects.filter(smtp_config=config.name, host=config.host)
    return rows.filter(learned_at__gt=timezone.now() - KEPT).order_by("-learned_at").first()


def words(row: ServerQuirks) -> str:
    """Return all properties in one line."""
    said = []
    if row.pipelining != PipeliningQuirk.FULL:
        said.append(_("several commands at once: %(how)s") % {"how": row.get_pipelining_display()})
    if row.mails:
        said.append(_("mails per session: %(number)s") % {"number": row.mails})
    if row.recipients:
        said.append(_("recipients per transaction: %(number)s") % {"number": row.recipients})
    when = date_format(local_time(row.learned_at), "SHORT_DATETIME_FORMAT")
    return "; ".join(said) + " (" + _("found out %(when)s") % {"when": when} + ")"


@admin.register(ServerQuirks)
class ServerQuirksAdmin(SensitiveViews, RestrictedLookups, QuirksModelAdmin):
    """A page to view and delete the rows. Only the SMTP session writes them."""

    list_display = ("smtp_config", "host", "pipelining", "mails", "recipients", "learned_at")
    list_display_links = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
