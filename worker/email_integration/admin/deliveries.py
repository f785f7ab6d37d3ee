"""The page of deliveries: how far each mail came, and what a person can decide about it."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.core.paginator import Paginator
from django.http import HttpRequest
from django.utils.functional import cached_property
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from email_integration.delivery import decide, ledger, safety
from email_integration.models import Delivery, DeliveryAttempt

from .typing import AttemptInline, DeliveryModelAdmin

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
    fields = readonly_fields = (
        "number",
        "started_at",
        "finished_at",
        "outcome",
        "phase",
        "code",
        "reason",
        "smtp_config",
        "host",
    )
    can_delete = False
    extra = max_num = 0

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Delivery)
class DeliveryAdmin(DeliveryModelAdmin):
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
    actions = ("cancel", "send_now", "give_up")

    class Media:
        css = {"all": ("email_integration/admin.css",)}

    # -- what is shown ------------------------------------------------------------------------------------------

    def get_queryset(self, request: HttpRequest) -> Any:
        """Without what a page never shows, and which may be large."""
        return super().get_queryset(request).defer("content", "options")

    @admin.display(description=gettext_lazy("diverted"))
    def diverted(self, delivery: Delivery) -> str:
        """Whether it went to somebody else than its recipients."""
        withheld = sum(safety.WITHHELD in str(item.get("reply")) for item in delivery.recipients)
        kept = [_("withheld from %(count)d") % {"count": withheld}] if withheld else []
        return ", ".join([_("redirected")] * bool(delivery.redirected_to) + kept) or "–"

    @admin.display(description=gettext_lazy("recipients"))
    def recipients_and_replies(self, delivery: Delivery) -> str:
        """Who gets it, what became of each, and the server's own words."""
        lines = []
        for item in delivery.recipients:
            said = " ".join(str(item[key]) for key in ("code", "reply") if item.get(key))
            lines.append(f"{item['address']}: {item['status']}{f' ({said})' if said else ''}")
        return "\n".join(lines)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Addresses are for those who may see them."""
        addresses = ("recipients_and_replies", "from_header", "redirected_to")
        may_see = request.user.has_perm("email_integration.view_recipients")
        return [
            (None, {"fields": ("id", "message_id", "status", "code", "reason", "attempts", "smtp_config")}),
            (gettext_lazy("Times"), {"fields": ("created_at", "due_at", "expires_at", "finished_at")}),
            *([(gettext_lazy("Addresses"), {"fields": addresses})] if may_see else []),
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

    def has_decide_permission(self, request: HttpRequest) -> bool:
        """Whether the user may cancel, send and give up: Django's permission to change deliveries."""
        return super().has_change_permission(request)

    # -- what can be decided ------------------------------------------------------------------------------------

    @admin.action(description=gettext_lazy("Cancel"), permissions=["decide"])
    def cancel(self, request: HttpRequest, queryset: Any) -> None:
        """Cancel what is not being sent at this moment."""
        done = [pk for pk in self._ids(queryset) if ledger.cancel(pk) is not None]
        self._tell(request, queryset, done, ngettext("%d mail was cancelled.", "%d mails were cancelled.", len(done)))

    @admin.action(description=gettext_lazy("Send now (deferred, in doubt, quarantined)"), permissions=["decide"])
    def send_now(self, request: HttpRequest, queryset: Any) -> None:
        """Make what waits due at once; what is in doubt is sent once more, the same bytes again."""
        done = [pk for pk in self._ids(queryset) if decide.send_now(pk)]
        self._tell(request, queryset, done, ngettext("%d mail is sent now.", "%d mails are sent now.", len(done)))

    @admin.action(description=gettext_lazy("Give up (in doubt)"), permissions=["decide"])
    def give_up(self, request: HttpRequest, queryset: Any) -> None:
        """Never send again what is in doubt."""
        done = [pk for pk in self._ids(queryset) if decide.discard(pk)]
        self._tell(request, queryset, done, ngettext("%d mail was given up.", "%d mails were given up.", len(done)))

    def _ids(self, queryset: Any) -> list[str]:
        return list(queryset.order_by("pk").values_list("pk", flat=True))

    def _tell(self, request: HttpRequest, queryset: Any, done: list[str], text: str) -> None:
        left = queryset.count() - len(done)
        if done:
            self.message_user(request, text % len(done), messages.SUCCESS)
        if left > 0:
            kept = _("%(count)d stayed as they were: finished, or being sent at this moment.")
            self.message_user(request, kept % {"count": left}, messages.WARNING)
