"""The list of configurations, in which only the active flag can be changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils.text import get_text_list
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from email_integration import conf
from email_integration.models import SMTPConfig
from email_integration.models.server import SECRETS
from email_integration.routing import generation

from . import routing_status, stale
from .active_flag import ActiveAsShown, ActiveField
from .filters import TEMPLATE
from .typing import ConfigFormSet, ConfigModelAdmin


class ActiveFilter(admin.BooleanFieldListFilter):
    """The list's filter by the active flag."""

    template = TEMPLATE


class LeavesNoneActive(Exception):
    """The list would deactivate ``args[0]`` and activate no other configuration: ask before."""


class ListRowForm(ActiveAsShown):
    """A row of the list. Only the active flag can be changed, and only it is validated."""

    class Meta:
        model = SMTPConfig
        fields = ("is_active",)
        field_classes = {"is_active": ActiveField}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.was_active = self.instance.is_active
        self.instance.is_row_of_list = True  # type: ignore[attr-defined]  # see SMTPConfigAdmin.has_change_permission
        self.fields["is_active"].widget.attrs["aria-label"] = f"{self.fields['is_active'].label}: {self.instance.name}"

    def _post_clean(self) -> None:
        # Django's validation compares each row with the old values of the others, and reports fields that are missing
        # here.
        turned_on = self.cleaned_data.get("is_active") and not self.instance.is_active
        self.instance.is_active = bool(self.cleaned_data.get("is_active"))
        if turned_on:
            try:
                stale.check_seen(self.data.get("seen"), self.instance)
                self.instance.full_clean(exclude=set(SECRETS), validate_unique=False)
                self.instance.check_may_be_activated()
            except ValidationError as error:
                self.add_error("is_active", error.messages)

    def save_flag(self) -> None:
        """Save only the active flag, because other fields may have changed meanwhile."""
        if self.instance.is_active:
            SMTPConfig.objects.activate(self.instance)
        else:
            SMTPConfig.objects.filter(pk=self.instance.pk, is_active=True).update(is_active=False)


class ListFormSet(ConfigFormSet):
    """The rows of the list together: at most one is ticked."""

    #: The rows whose flag was changed elsewhere after the page was rendered. The list's view sets its own list here.
    overtaken: list[SMTPConfig]

    def clean(self) -> None:
        super().clean()
        rows = [form for form in self.forms if isinstance(form, ListRowForm)]
        self.overtaken.extend(form.instance for form in rows if form.overtaken)
        ticked = [form.instance.name for form in rows if form.ticked]
        if len(ticked) > 1:
            names = get_text_list([f"“{name}”" for name in ticked], str(_("and")))
            text = _("Only one configuration can be active, and %(names)s are ticked: tick one of them.")
            raise ValidationError(text, params={"names": names}, code="two_active")
        turned_off = [form.instance for form in rows if form.was_active and form.decides_active]
        if turned_off and not ticked and "confirmed" not in self.data:
            raise LeavesNoneActive(turned_off[0])

    def validate_unique(self) -> None:
        """Skip the check: no field of a row is unique."""


class ListViews(ConfigModelAdmin):
    """The list's page. It asks before it leaves no configuration active."""

    action_form = stale.ListActionForm

    def get_changelist_form(self, request: HttpRequest, **kwargs: Any) -> Any:
        return ListRowForm

    def get_changelist_formset(self, request: HttpRequest, **kwargs: Any) -> Any:
        formset: Any = super().get_changelist_formset(request, **{"formset": ListFormSet, **kwargs})
        formset.overtaken = getattr(request, "_email_overtaken", [])  # Django creates a new class for each request
        return formset

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        overtaken: list[SMTPConfig] = []
        request._email_list = True  # type: ignore[attr-defined]  # see has_change_permission
        request._email_overtaken = overtaken  # type: ignore[attr-defined]  # see get_changelist_formset
        may_view = self.has_view_or_change_permission(request)
        if request.method == "POST" and may_view and self._names_deleted(request):
            return HttpResponseRedirect(request.get_full_path())
        deletes = request.POST.get("action") == "delete_selected" and "post" in request.POST
        if deletes and may_view and self.is_stale_deletion(request, request.POST.getlist(helpers.ACTION_CHECKBOX_NAME)):
            return HttpResponseRedirect(request.get_full_path())
        before = active_pk()
        try:
            response: HttpResponse = super().changelist_view(request, extra_context)
        except LeavesNoneActive as question:
            sent = [(name, value) for name, values in request.POST.lists() for value in values]
            return self.ask_to_deactivate(request, question.args[0], sent)
        except (ValidationError, SMTPConfig.DoesNotExist) as error:  # changed or deleted after the rows were checked
            words = error.messages if isinstance(error, ValidationError) else [_("It has been deleted meanwhile.")]
            self.message_user(request, " ".join(words), messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())
        if overtaken and response.status_code == 302 and active_pk() == before:
            self.say_overtaken(request, overtaken[0])
        return self.say_what_follows(request, response, before)

    def ask_to_deactivate(
        self, request: HttpRequest, config: SMTPConfig, sent: Iterable[tuple[str, Any]]
    ) -> HttpResponse:
        """Return the page that asks, and that sends the fields ``sent`` again if the user confirms."""
        context = {
            **self.admin_site.each_context(request),
            "title": _("Deactivate the active configuration?"),
            "opts": self.opts,
            "config": config,
            "sent": [pair for pair in sent if pair[0] != "csrfmiddlewaretoken"],
        }
        return TemplateResponse(request, "email_integration/confirm_deactivate.html", context)

    def is_stale_deletion(self, request: HttpRequest, pks: Sequence[str]) -> bool:
        """Return whether the page that asked showed another state of these rows, and tell the user so."""
        rows = SMTPConfig.objects.filter(pk__in=[pk for pk in pks if pk.isdecimal() and len(pk) < 19])
        names = [
            f"“{config.name}”"
            for config in rows
            if self.has_delete_permission(request, config) and not stale.is_as_shown(request.POST.get("seen"), config)
        ]
        if names:
            text = _("Nothing was deleted: %(names)s was changed or activated while the page was open.")
            self.message_user(request, text % {"names": get_text_list(names, str(_("and")))}, messages.ERROR)
        return bool(names)

    def _names_deleted(self, request: HttpRequest) -> bool:
        """Return whether the page that was sent names rows that do not exist, and tell the user so."""
        rows = [key for key in request.POST if key.startswith("form-") and key.endswith("-id")]
        named = {value for key in (helpers.ACTION_CHECKBOX_NAME, *rows) for value in request.POST.getlist(key)}
        pks = {int(value) for value in named if value.isdecimal() and len(value) < 19}
        gone = len(pks) - SMTPConfig.objects.filter(pk__in=pks).count()
        if gone:
            text = ngettext(
                "Nothing was done: %(count)s configuration of the list was deleted while the page was open.",
                "Nothing was done: %(count)s configurations of the list were deleted while the page was open.",
                gone,
            )
            self.message_user(request, text % {"count": gone}, messages.ERROR)
        return gone > 0

    def say_overtaken(self, request: HttpRequest, config: SMTPConfig) -> None:
        """Warn that ``config`` was switched elsewhere while the page was open, and that this page did not undo it."""
        active = SMTPConfig.objects.filter(is_active=True).first()
        text = (
            _("Meanwhile “%(name)s” was activated; this page left that as it is.")
            if active is not None
            else _("Meanwhile “%(name)s” was deactivated; this page left that as it is.")
        )
        self.message_user(request, text % {"name": (active or config).name}, messages.WARNING)

    def say_what_follows(self, request: HttpRequest, response: HttpResponse, before: Any) -> HttpResponse:
        """Add warnings after a committed write: no configuration is active, or workers will notice the change late."""
        if request.method != "POST" or response.status_code != 302:
            return response
        if before is not None and active_pk() is None:
            self.message_user(request, routing_status.without_any(), messages.WARNING)
        if not generation.is_reachable():
            text = _("The shared cache is out of reach: workers follow this change within %(seconds)s seconds.")
            self.message_user(request, text % {"seconds": f"{conf.get('CONFIG_CACHE_TTL'):g}"}, messages.WARNING)
        return response


def active_pk() -> Any:
    """Return the primary key of the active configuration, or None."""
    return SMTPConfig.objects.filter(is_active=True).values_list("pk", flat=True).first()
