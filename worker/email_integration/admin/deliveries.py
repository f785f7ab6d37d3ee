"""The admin pages of deliveries: the status of each mail, and its reason."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.core.paginator import Paginator
from django.db import router
from django.http import HttpRequest, HttpResponse
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils.formats import number_format
from django.utils.functional import cached_property
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from email_integration import conf
from email_integration.ledger import rows
from email_integration.message import previews
from email_integration.models import Delivery, InDoubtPolicy, SMTPConfig, Status

from . import filters, linked_filters
from .audit import AuditedViews
from .columns import ListColumns, badge
from .contents import ContentViews, may_see_content
from .dashboard import DashboardViews
from .decision_buttons import DecisionButtons, explanation
from .decisions import DecisionActions
from .export import ExportViews
from .isolation import isolated
from .lookups import RestrictedLookups, RestrictedOrdering
from .next_tries import look_up, next_try
from .sensitive import SensitiveViews
from .timeline import Timeline, described_attempts
from .times import ExactTimes

#: The largest number that is counted: a list page must not count millions of rows.
_COUNTED = 10_000

#: Largest number of copies that are linked, the newest.
_COPIES = 20

#: Largest number of recipients on the page of a mail, each with the server's reply.
_RECIPIENTS = 200


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
        shown: Any = list(self.result_list) if request.method == "GET" else ()
        look_up(shown)
        if may_see_content(request) and request.method == "GET":
            subjects = previews.subjects(shown)
            for delivery in shown:
                delivery.shown_subject = subjects.get(delivery.pk)
            self.result_list = shown


@admin.register(Delivery)
class DeliveryAdmin(
    SensitiveViews,
    RestrictedLookups,
    DashboardViews,
    ExportViews,
    ContentViews,
    AuditedViews,
    DecisionButtons,
    DecisionActions,
    ListColumns,
    ExactTimes,
):
    """Read-only, except for the decisions that a person must make."""

    list_filter = (
        ("status", filters.StatusFilter),
        ("created_at", filters.SubmittedFilter),
        filters.PriorityFilter,
        filters.ConfigFilter,
        filters.CauseFilter,
        linked_filters.FinishedFilter,
        linked_filters.CopyFilter,
        linked_filters.AttemptFilter,
    )
    show_facets = admin.ShowFacets.NEVER  # facets need counts
    sortable_by = ("age",)  # it has an index
    search_fields = ("id__exact", "message_id__exact")
    empty_value_display = "–"
    show_full_result_count = False
    paginator = _Paginator
    inlines = (Timeline,)

    class Media:
        css = {"all": ("email_integration/admin.css",)}

    # -- the list -----------------------------------------------------------------------------------------------

    def get_list_display(self, request: HttpRequest) -> Any:
        """Return the columns. Subjects and addresses are for users who may see them."""
        seen = ("subject_line", "addresses") if may_see_content(request) else ("recipient_count",)
        return ("short_id", "state", *seen, "next_attempt", "age", "server_and_priority")

    def get_list_display_links(self, request: HttpRequest, list_display: Any) -> Any:
        """Link the id and the subject: a person knows a mail by its subject."""
        return [name for name in ("short_id", "subject_line") if name in list_display]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[RestrictedOrdering]:
        return _Page

    def get_queryset(self, request: HttpRequest) -> Any:
        """Leave out columns that no page shows and that may be large, and those that the user may not see."""
        hidden = () if may_see_content(request) else ("subject",)
        return super().get_queryset(request).defer("content", "options", *hidden)

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """Search by id and Message-ID and, for users who may see them, by recipient and subject."""
        words = search_term.strip()
        if words:
            queryset = filters.search(request, queryset, words, may_see=may_see_content(request))
        return queryset, False

    # -- the page of one delivery -------------------------------------------------------------------------------

    @admin.display(description=gettext_lazy("status"))
    def current_status(self, delivery: Delivery) -> str:
        """Return the status as in the list: a claimed delivery is being sent."""
        return delivery.get_current_status_display()

    @admin.display(description="Message-ID")
    def own_message_id(self, delivery: Delivery) -> SafeString:
        return isolated(delivery.message_id)

    @admin.display(description=gettext_lazy("reason"))
    def why(self, delivery: Delivery) -> SafeString | str:
        return isolated(delivery.reason) if delivery.reason else "–"

    @admin.display(description=gettext_lazy("SMTP configuration"))
    def linked_config(self, delivery: Delivery) -> SafeString | str:
        """Return the name of the configuration as a link, for users who may view configurations."""
        pk = SMTPConfig.objects.filter(name=delivery.smtp_config).values_list("pk", flat=True).first()
        if pk is None:
            return delivery.smtp_config or "–"
        page = reverse("admin:email_integration_smtpconfig_change", args=[pk])
        return format_html('<a href="{}">{}</a>', page, isolated(delivery.smtp_config))

    @admin.display(description=gettext_lazy("recipients"))
    def recipients_and_replies(self, delivery: Delivery) -> SafeString | str:
        """Return the recipients, the status and reason of each, and the server's reply."""
        if not rows.is_readable(delivery):
            return _("They cannot be read: the row was changed in the database, outside the app.")
        # If not all can be shown, show first the recipients that have not received the mail.
        shown = sorted(delivery.recipients, key=lambda item: item["status"] == Status.ACCEPTED)[:_RECIPIENTS]
        left = len(delivery.recipients) - len(shown)
        if not left:
            return format_html_join(mark_safe("<br>"), "{}", ((_line(item),) for item in delivery.recipients))
        command = f"manage.py delivery show {delivery.pk} --addresses"
        more = _("%(count)s more are shown by: %(command)s") % {"count": number_format(left), "command": command}
        return format_html_join(mark_safe("<br>"), "{}", ((line,) for line in (*map(_line, shown), more)))

    @admin.display(description=gettext_lazy("from"))
    def sender_address(self, delivery: Delivery) -> SafeString | str:
        return isolated(previews.sender(delivery)) if delivery.from_header else "–"

    @admin.display(description=gettext_lazy("redirected to"))
    def other_recipients(self, delivery: Delivery) -> SafeString | str:
        return isolated(delivery.redirected_to) if delivery.redirected_to else "–"

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
        may_link = request.user.has_perm("email_integration.view_smtpconfig")
        config = "linked_config" if may_link else "smtp_config"
        outcome = ("id", "own_message_id", "current_status", "code", "why", "attempts", config, "priority")
        addresses = ("recipients_and_replies", "sender_address", "other_recipients")
        return [
            (None, {"fields": (*outcome, "when_in_doubt", "kept_content")}),
            (gettext_lazy("Times"), {"fields": ("submitted", "due", "expires", "finished")}),
            *([(gettext_lazy("Addresses"), {"fields": addresses})] if may_see_content(request) else []),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return [name for _title, options in self.get_fieldsets(request, obj) for name in options["fields"]]

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> HttpResponse:
        """Add the subject as the title, the decisions, and descriptions of the attempts in words."""
        may_see = may_see_content(request)
        for inline in context["inline_admin_formsets"]:
            context["attempts"] = described_attempts(inline.formset.get_queryset(), may_see=may_see)
        delivery = context["original"]
        subject = previews.subjects([delivery]).get(delivery.pk, "") if may_see else ""
        if may_see and delivery.subject and not subject:
            text = _("The subject cannot be decrypted: its key is not in SMTP_PASSWORD_KEYS, or it is damaged.")
            self.message_user(request, text, messages.WARNING)
        context |= {
            "title": subject or _("Mail %(id)s") % {"id": delivery.pk},
            "email_subject": subject,
            "email_badge": badge(delivery),
            "explanation": explanation(delivery),
            "buttons": self.buttons(request, delivery),
            "next_try": next_try(delivery),
            "original_mail": rows.load(delivery.copy_of) if delivery.copy_of else None,
            "copies": _copies(delivery),
        }
        return super().render_change_form(request, context, *args, **kwargs)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nothing can be edited. The actions check ``has_decide_permission``."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def _copies(delivery: Delivery) -> Any:
    copies = Delivery.objects.filter(copy_of=delivery.pk).order_by("-created_at")
    return copies.only("pk", "status", "batch", "created_at")[:_COPIES]


def _search_help(*, may_see: bool) -> str:
    if may_see:
        return _("ID (whole or as listed), whole Message-ID, part of a recipient or of a subject")
    return _("ID (whole or as listed) or whole Message-ID")


def _line(item: dict[str, Any]) -> SafeString:
    """Return a recipient, its status, the reason, and the server's reply, or our own text if no server replied."""
    reason, reply = item.get("reason", ""), item.get("reply", "")
    said = " ".join(str(part) for part in (item.get("code"), reply if reply != reason else "") if part)
    why = format_html(" – {}", isolated(reason)) if reason else ""
    end = format_html(" ({})", isolated(said)) if said else ""
    status = _("pending") if item["status"] == "pending" else dict(Status.choices).get(item["status"], item["status"])
    return format_html("{}: {}{}{}", isolated(item["address"]), status, why, end)
