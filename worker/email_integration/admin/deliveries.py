"""The page of deliveries: how far each mail came, and why."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat, floatformat
from django.utils.formats import date_format
from django.utils.functional import cached_property
from django.utils.timezone import localtime
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from email_integration import conf
from email_integration.delivery import rows, safety
from email_integration.models import Delivery, DeliveryAttempt, InDoubtPolicy

from .decisions import DecisionActions
from .typing import AttemptInline

#: Counted no further than this: a page of a table with millions of rows must not count them all.
_COUNTED = 10_000


class _Paginator(Paginator):  # type: ignore[type-arg]  # generic for the type checker alone
    """Knows of so many rows and no more."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows[:_COUNTED].count())


class _Attempts(AttemptInline):
    model = DeliveryAttempt
    can_delete = False
    extra = max_num = 0

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """The server's own words are for those who may see addresses."""
        said = ("reply",) if _may_see_addresses(request) else ()
        server = ("smtp_config", "saved", "host", "tls_version")
        return ("number", "started_at", "took", "outcome", "phase", "code", "reason", *said, *server)

    get_readonly_fields = get_fields

    @admin.display(description=gettext_lazy("duration"))
    def took(self, attempt: DeliveryAttempt) -> str:
        """In seconds."""
        return "–" if attempt.duration is None else f"{floatformat(attempt.duration, 2)} s"

    @admin.display(description=gettext_lazy("version"))
    def saved(self, attempt: DeliveryAttempt) -> str:
        """Which version of the configuration it was: when that was saved."""
        try:
            saved = dt.datetime.fromisoformat(attempt.config_version)
        except ValueError:
            return attempt.config_version or "–"
        return date_format(localtime(saved), "SHORT_DATETIME_FORMAT")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def _may_see_addresses(request: HttpRequest) -> bool:
    return request.user.has_perm("email_integration.view_recipients")


@admin.register(Delivery)
class DeliveryAdmin(DecisionActions):
    """Read-only, but for what a person has to decide. Never shows a subject or a body."""

    list_display = (
        "id",
        "status",
        "attempts",
        "code",
        "reason",
        "smtp_config",
        "diverted",
        "created_at",
        "due_at",
        "finished_at",
    )
    list_filter = ("status",)
    show_facets = admin.ShowFacets.NEVER  # they count
    search_fields = ("id__exact", "message_id__exact")
    search_help_text = gettext_lazy("The whole task id or Message-ID")
    show_full_result_count = False
    paginator = _Paginator
    inlines = (_Attempts,)

    class Media:
        css = {"all": ("email_integration/admin.css",)}

    # -- what is shown ------------------------------------------------------------------------------------------

    def get_queryset(self, request: HttpRequest) -> Any:
        """Without what a page never shows, and which may be large."""
        return super().get_queryset(request).defer("content", "options")

    @admin.display(description=gettext_lazy("diverted"))
    def diverted(self, delivery: Delivery) -> str:
        """Whether it went to somebody else than its recipients."""
        recipients = delivery.recipients if rows.is_readable(delivery) else []
        withheld = sum(safety.WITHHELD in str(item.get("reply")) for item in recipients)
        kept = [_("withheld from %(count)d") % {"count": withheld}] if withheld else []
        return ", ".join([_("redirected")] * bool(delivery.redirected_to) + kept) or "–"

    @admin.display(description=gettext_lazy("recipients"))
    def recipients_and_replies(self, delivery: Delivery) -> str:
        """Who gets it, what became of each and why, and the server's own words."""
        if not rows.is_readable(delivery):
            return _("They cannot be read: somebody has changed the row in the database.")
        return "\n".join(_line(item) for item in delivery.recipients)

    @admin.display(description=gettext_lazy("content"))
    def kept_content(self, delivery: Delivery) -> str:
        """How large it is, and whether it is still there."""
        kept = _("%(size)s, kept") if delivery.has_content else _("%(size)s, kept no longer")
        return kept % {"size": filesizeformat(delivery.content_size)}

    @admin.display(description=gettext_lazy("when in doubt"))
    def when_in_doubt(self, delivery: Delivery) -> str:
        """What becomes of it then: its own wish, or the setting's."""
        chosen = delivery.in_doubt_policy or conf.get("IN_DOUBT")
        policy = dict(InDoubtPolicy.choices).get(chosen, chosen)
        if delivery.in_doubt_policy:
            return str(policy)
        return _("%(policy)s (by the setting IN_DOUBT)") % {"policy": policy}

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Addresses are for those who may see them."""
        outcome = ("id", "message_id", "status", "code", "reason", "attempts", "smtp_config")
        addresses = ("recipients_and_replies", "from_header", "redirected_to")
        return [
            (None, {"fields": (*outcome, "when_in_doubt", "kept_content")}),
            (gettext_lazy("Times"), {"fields": ("created_at", "due_at", "expires_at", "finished_at")}),
            *([(gettext_lazy("Addresses"), {"fields": addresses})] if _may_see_addresses(request) else []),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return [name for _title, options in self.get_fieldsets(request, obj) for name in options["fields"]]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nothing can be edited; the actions ask ``has_decide_permission``."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def _line(item: dict[str, Any]) -> str:
    """A recipient, what became of it, why, and what the server said, which is our own words when no server did."""
    reason, reply = item.get("reason", ""), item.get("reply", "")
    said = " ".join(str(part) for part in (item.get("code"), reply if reply != reason else "") if part)
    return f"{item['address']}: {item['status']}{f' – {reason}' if reason else ''}{f' ({said})' if said else ''}"
