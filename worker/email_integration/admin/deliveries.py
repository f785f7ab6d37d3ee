"""The admin pages of deliveries: the status of each mail, and its reason."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db import router
from django.http import HttpRequest, HttpResponse
from django.template.defaultfilters import filesizeformat
from django.utils import timezone
from django.utils.formats import date_format, number_format
from django.utils.functional import cached_property
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.timesince import timesince, timeuntil
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from email_integration import conf
from email_integration.ledger import rows
from email_integration.message import previews
from email_integration.models import Delivery, InDoubtPolicy, Status
from email_integration.outcomes.causes import Cause
from email_integration.timezones import aware, local_time

from . import filters
from .audit import AuditedViews
from .contents import ContentViews, may_see_content
from .dashboard import DashboardViews
from .decisions import DecisionActions
from .lookups import RestrictedLookups, RestrictedOrdering
from .sensitive import SensitiveViews
from .timeline import Timeline, described_attempts, next_attempt

#: The largest number that is counted: a list page must not count millions of rows.
_COUNTED = 10_000

#: Largest number of recipients on the page of a mail, each with the server's reply.
_RECIPIENTS = 200

#: Longest texts in the list, in characters.
_SHORT_ID, _SHORT_TEXT = 9, 60


class _Paginator(Paginator):  # type: ignore[type-arg]  # generic only for the type checker
    """A paginator that counts at most _COUNTED rows."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows[:_COUNTED].count())


class _Page(RestrictedOrdering):
    """Loads the subjects of the visible rows from their contents, for users who may see them.

    The list is read from the database that the router chooses for reading deliveries, because it may be large and
    slightly old. Actions read from the primary.
    """

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> Any:
        if request.method == "GET":
            self.root_queryset = self.root_queryset.using(router.db_for_read(Delivery))
        return super().get_queryset(request, exclude_parameters)

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.search_help_text = _search_help(may_see=may_see_content(request))
        if may_see_content(request) and request.method == "GET":
            shown: Any = list(self.result_list)
            subjects = previews.subjects(shown)
            for delivery in shown:
                delivery.subject = subjects.get(delivery.pk)
            self.result_list = shown


@admin.register(Delivery)
class DeliveryAdmin(SensitiveViews, RestrictedLookups, DashboardViews, ContentViews, AuditedViews, DecisionActions):
    """Read-only, except for the decisions that a person must make."""

    list_filter = (
        ("status", filters.StatusFilter),
        "created_at",
        filters.PriorityFilter,
        filters.ConfigFilter,
        filters.CauseFilter,
    )
    linked_lookups = ("finished_at__gte",)  # for the tiles of the dashboard
    show_facets = admin.ShowFacets.NEVER  # facets need counts
    sortable_by = ("age",)  # it has an index
    search_fields = ("id__exact", "message_id__exact")
    show_full_result_count = False
    paginator = _Paginator
    inlines = (Timeline,)

    class Media:
        css = {"all": ("email_integration/admin.css",)}

    # -- the list -----------------------------------------------------------------------------------------------

    def get_list_display(self, request: HttpRequest) -> Any:
        """Return the columns. Subjects and addresses are for users who may see them."""
        seen = ("subject", "addresses") if may_see_content(request) else ("recipient_count",)
        return ("short_id", "state", *seen, "next_attempt", "age", "attempts", "smtp_config", "priority")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[RestrictedOrdering]:
        return _Page

    def get_queryset(self, request: HttpRequest) -> Any:
        """Leave out columns that no page shows and that may be large."""
        return super().get_queryset(request).defer("content", "options")

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """Search by task id and Message-ID and, for users who may see them, by recipient and subject."""
        words = search_term.strip()
        if words:
            queryset = filters.search(request, queryset, words, may_see=may_see_content(request))
        return queryset, False

    @admin.display(description="ID")
    def short_id(self, delivery: Delivery) -> SafeString:
        """Return the beginning of the id, which distinguishes the mails of a page."""
        return format_html('<span title="{}">{}</span>', delivery.pk, Truncator(delivery.pk).chars(_SHORT_ID))

    @admin.display(description=gettext_lazy("status"))
    def state(self, delivery: Delivery) -> SafeString:
        """Return the status and its reason."""
        why = format_html('<span class="email-mark">{}</span>', delivery.reason) if delivery.reason else ""
        return format_html("{}{}", delivery.get_current_status_display(), why)

    @admin.display(description=gettext_lazy("subject"))
    def subject(self, delivery: Any) -> SafeString | str:
        """Return the subject while the content is kept in the database; not if it is in the storage."""
        subject = getattr(delivery, "subject", None)
        if not subject:
            return "–"
        return format_html('<span title="{}">{}</span>', subject, Truncator(subject).chars(_SHORT_TEXT))

    @admin.display(description=gettext_lazy("recipients"))
    def addresses(self, delivery: Delivery) -> SafeString | str:
        """Return the first address, and the number of the others."""
        if not rows.is_readable(delivery):
            return "–"
        first, *others = (item["address"] for item in delivery.recipients)
        text = f"{Truncator(first).chars(_SHORT_TEXT)} +{len(others)}" if others else first
        return format_html("{}{}", text, _marks(delivery))

    @admin.display(description=gettext_lazy("recipients"))
    def recipient_count(self, delivery: Delivery) -> SafeString | str:
        """Return the number of recipients, for users who may not see their addresses."""
        if not rows.is_readable(delivery):
            return "–"
        return format_html("{}{}", len(delivery.recipients), _marks(delivery))

    @admin.display(description=gettext_lazy("next attempt"))
    def next_attempt(self, delivery: Delivery) -> SafeString | str:
        """Return the time until the next attempt, or 'at once' if it is due."""
        due_at = next_attempt(delivery)
        if due_at is None:
            return "–"
        waits = due_at > timezone.now()
        return _moment(due_at, _("in %(time)s") % {"time": timeuntil(due_at, depth=1)} if waits else _("now"))

    @admin.display(description=gettext_lazy("age"), ordering="-created_at")
    def age(self, delivery: Delivery) -> SafeString:
        """Return the time since submission."""
        return _moment(delivery.created_at, timesince(delivery.created_at, depth=1))

    # -- the page of one delivery -------------------------------------------------------------------------------

    @admin.display(description=gettext_lazy("status"))
    def current_status(self, delivery: Delivery) -> str:
        """Return the status as in the list: a claimed delivery is being sent."""
        return delivery.get_current_status_display()

    @admin.display(description=gettext_lazy("recipients"))
    def recipients_and_replies(self, delivery: Delivery) -> str:
        """Return the recipients, the status and reason of each, and the server's reply."""
        if not rows.is_readable(delivery):
            return _("They cannot be read: the row was changed in the database, outside the app.")
        # If not all can be shown, show first the recipients that have not received the mail.
        shown = sorted(delivery.recipients, key=lambda item: item["status"] == Status.ACCEPTED)[:_RECIPIENTS]
        left = len(delivery.recipients) - len(shown)
        if not left:
            return "\n".join(_line(item) for item in delivery.recipients)
        command = f"manage.py delivery show {delivery.pk} --addresses"
        more = _("%(count)s more are shown by: %(command)s") % {"count": number_format(left), "command": command}
        return "\n".join([*map(_line, shown), more])

    @admin.display(description=gettext_lazy("content"))
    def kept_content(self, delivery: Delivery) -> str:
        """Return the size of the content, and whether it is still kept."""
        kept = _("%(size)s, kept") if delivery.has_content else _("%(size)s, kept no longer")
        return kept % {"size": filesizeformat(delivery.content_size)}

    @admin.display(description=gettext_lazy("when in doubt"))
    def when_in_doubt(self, delivery: Delivery) -> str:
        """Return the policy for a mail in doubt: the delivery's, or else the setting's."""
        chosen = delivery.in_doubt_policy or conf.get("IN_DOUBT")
        policy = dict(InDoubtPolicy.choices).get(chosen, chosen)
        if delivery.in_doubt_policy:
            return str(policy)
        return _("%(policy)s (by the setting IN_DOUBT)") % {"policy": policy}

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the sections. Addresses are for users who may see them."""
        outcome = ("id", "message_id", "current_status", "code", "reason", "attempts", "smtp_config", "priority")
        addresses = ("recipients_and_replies", "from_header", "redirected_to")
        return [
            (None, {"fields": (*outcome, "when_in_doubt", "kept_content")}),
            (gettext_lazy("Times"), {"fields": ("created_at", "due_at", "expires_at", "finished_at")}),
            *([(gettext_lazy("Addresses"), {"fields": addresses})] if may_see_content(request) else []),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return [name for _title, options in self.get_fieldsets(request, obj) for name in options["fields"]]

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> HttpResponse:
        """Add descriptions of the attempts in words."""
        for inline in context["inline_admin_formsets"]:
            context["attempts"] = described_attempts(inline.formset.get_queryset(), may_see=may_see_content(request))
            context["next_attempt"] = next_attempt(inline.formset.instance)
        return super().render_change_form(request, context, *args, **kwargs)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nothing can be edited. The actions check ``has_decide_permission``."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def _search_help(*, may_see: bool) -> str:
    if may_see:
        return _("The whole task id or Message-ID, or a part of a recipient or a subject")
    return _("The whole task id or Message-ID")


def _moment(moment: dt.datetime, text: str) -> SafeString:
    exactly = date_format(local_time(moment), "DATETIME_FORMAT")
    return format_html('<time datetime="{}" title="{}">{}</time>', aware(moment).isoformat(), exactly, text)


def _marks(delivery: Delivery) -> SafeString:
    """Return whether the mail was redirected to others than its recipients."""
    withheld = sum(item.get("cause") == Cause.WITHHELD for item in delivery.recipients)
    marks = [
        *([_("redirected")] if delivery.redirected_to else []),
        *([_("withheld from %(count)d") % {"count": withheld}] if withheld else []),
    ]
    return format_html_join("", '<span class="email-mark">{}</span>', ((mark,) for mark in marks))


def _line(item: dict[str, Any]) -> str:
    """Return a recipient, its status, the reason, and the server's reply, or our own text if no server replied."""
    reason, reply = item.get("reason", ""), item.get("reply", "")
    said = " ".join(str(part) for part in (item.get("code"), reply if reply != reason else "") if part)
    line = f"{item['address']}: {item['status']}{f' – {reason}' if reason else ''}{f' ({said})' if said else ''}"
    return line.encode("utf-8", "replace").decode()  # JSON can contain half of a surrogate pair
