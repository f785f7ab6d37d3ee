"""The admin pages of SMTP configurations."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import flatten_fieldsets, quote, unquote
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from email_integration import validators
from email_integration.fields import UNREADABLE
from email_integration.models import SMTPConfig, audit, login
from email_integration.timezones import exactly

from . import encryption, isolation, quirks
from .actions import ConfigActions
from .breakers import BreakerViews
from .config_list import ActiveFilter, ListRowForm, active_pk
from .consent import ConsentViews
from .encryption import EncryptionFilter
from .forms import SMTPConfigForm
from .history import HistoryPage
from .lookups import RestrictedLookups
from .pausing import PauseViews
from .presets import PRESETS
from .sensitive import SensitiveViews
from .session_tests import SessionTests
from .stale import ChangedMeanwhile


def _login_fields(config: SMTPConfig | None, *, secrets: bool) -> tuple[str, ...]:
    """Return the fields of the login.

    In a form, the page's script shows those that the chosen method needs. Otherwise only these are returned.
    """
    unused = login.unused_fields(config) if config is not None and not secrets else ()
    fields = (
        "authentication",
        "username",
        *(("password", "confirm_secret") if secrets else ()),
        "oauth_grant",
        "oauth_endpoint",
        "oauth_authorization_endpoint",
        "oauth_client_id",
        *(("oauth_client_secret", "oauth_refresh_token") if secrets else ()),
        *(("consent",) if secrets and config is not None and config.by_refresh_token else ()),
        *(("oauth_private_key",) if secrets else ()),
        "oauth_secret_ends",
        "oauth_scope",
        *(("token_state",) if config is not None and config.by_token else ()),
    )
    return tuple(name for name in fields if name not in unused)


@admin.register(SMTPConfig)
class SMTPConfigAdmin(  # type: ignore[misc]  # the last class is untyped
    SensitiveViews,
    RestrictedLookups,
    ConsentViews,
    PauseViews,
    BreakerViews,
    ConfigActions,
    HistoryPage,
):
    """One row per server. The list shows which one is active."""

    form = SMTPConfigForm
    list_display = ("name", "is_active", "server", "username", "encryption", "last_check", "updated")
    list_editable = ("is_active",)
    list_filter = (("is_active", ActiveFilter), EncryptionFilter)
    show_facets = admin.ShowFacets.NEVER  # the menus are above the list, and there are few rows
    linked_lookups = ("use_tls__exact", "use_ssl__exact")  # of bookmarks
    search_fields = ("name", "host", "username")
    search_help_text = gettext_lazy("Name, host or username")
    readonly_fields = ("last_check", "consent", "token_state", "learned", "created", "updated")
    ordering = ("name",)

    class Media:
        css = {"all": ("email_integration/admin.css",)}
        js = ("email_integration/config_form.js",)

    # -- columns ------------------------------------------------------------------------------------------------

    @admin.display(description=gettext_lazy("Server"), ordering="host")
    def server(self, config: SMTPConfig) -> str:
        return f"{config.host}:{config.port}"

    @admin.display(description=gettext_lazy("encryption"))
    def encryption(self, config: SMTPConfig) -> str:
        """Return the kind of encryption without its usual port."""
        kind = encryption.of(config)
        return str(encryption.NAMES[kind]) if kind is not None else _("STARTTLS and TLS: impossible")

    @admin.display(description=gettext_lazy("last check"), ordering="tested_at")
    def last_check(self, config: SMTPConfig) -> str:
        """Return the time and result of the last test; if the password cannot be decrypted, that comes first."""
        if not config.is_readable:
            return format_html('<span class="email-check failed">{}</span>', _("password unreadable"))
        if config.tested_at is None:
            return format_html('<span class="email-check">{}</span>', _("never"))
        place = {"when": exactly(config.tested_at), "detail": config.test_detail}
        if not config.test_passed:
            text, kind = _("failed %(when)s: %(detail)s") % place, "failed"
        elif config.passed_test:
            text, kind = _("passed %(when)s") % place, "passed"
        else:
            text, kind = _("passed %(when)s, changed since") % place, "outdated"
        return format_html(
            '<span class="email-check {}" title="{}">{}</span>', kind, text, isolation.whole_addresses(text)
        )

    @admin.display(description=gettext_lazy("OAuth token"))
    def token_state(self, config: SMTPConfig) -> str:
        """Return how long the token is valid, why there is no newer one, and whether its credential expires soon."""
        said = []
        if login.ending(config) and config.oauth_secret_ends is not None:
            place = {"when": date_format(config.oauth_secret_ends, "SHORT_DATE_FORMAT")}
            said.append(_("what it is fetched with ends on %(when)s") % place)
        token = login.current_token(config)
        if token is None or (token.expires_at is None and token.failed_at is None):
            return "; ".join([*said, _("none was fetched yet")])
        if token.expires_at is not None:
            said.append(_("valid until %(when)s") % {"when": exactly(token.expires_at)})
        if token.failed_at is not None:
            place = {"when": exactly(token.failed_at), "why": token.error}
            said.append(_("none could be fetched %(when)s: %(why)s") % place)
        return "; ".join(said)

    @admin.display(description=gettext_lazy("learned about the server"))
    def learned(self, config: SMTPConfig) -> str:
        """Return the learned properties of the server, which it does not announce."""
        row = quirks.of_configuration(config)
        return quirks.words(row) if row is not None else _("nothing")

    @admin.display(description=gettext_lazy("created at"))
    def created(self, config: SMTPConfig) -> str:
        return exactly(config.created_at)

    @admin.display(description=gettext_lazy("updated at"), ordering="updated_at")
    def updated(self, config: SMTPConfig) -> str:
        return exactly(config.updated_at)

    # -- permissions --------------------------------------------------------------------------------------------

    def has_change_permission(self, request: HttpRequest, obj: SMTPConfig | None = None) -> bool:
        """Django's permission. In the list only the active flag can be changed, which needs the activate permission."""
        # From Django 6.1 on, the list also asks for each row.
        if getattr(request, "_email_list", False) and (obj is None or getattr(obj, "is_row_of_list", False)):
            return self.has_activate_permission(request)
        return bool(super().has_change_permission(request, obj))

    def has_delete_permission(self, request: HttpRequest, obj: SMTPConfig | None = None) -> bool:
        """Django's permission. To delete the active configuration, the user needs the activate permission too."""
        if obj is not None and obj.is_active and not self.has_activate_permission(request):
            return False
        return bool(super().has_delete_permission(request, obj))

    def get_readonly_fields(self, request: HttpRequest, obj: SMTPConfig | None = None) -> tuple[str, ...]:
        if obj is not None and not self.has_change_permission(request, obj):
            return tuple(flatten_fieldsets(self.get_fieldsets(request, obj)))
        locked = () if self.has_activate_permission(request) else ("is_active",)
        return (*self.readonly_fields, *locked)

    def get_fieldsets(self, request: HttpRequest, obj: SMTPConfig | None = None) -> Any:
        """Return the sections on name, server and login, without fields for secrets if the user may not change them."""
        editable = self.has_change_permission(request, obj) if obj else self.has_add_permission(request)
        confirming = ("confirm_none_active",) if self.has_activate_permission(request) else ()
        of_form = (*confirming, "stored_values") if editable else ()
        return [
            (None, {"fields": ("name", "from_email", "is_active", *of_form)}),
            (gettext_lazy("Server"), {"fields": ("host", "port", "encryption", "timeout")}),
            (gettext_lazy("Login"), {"fields": _login_fields(obj, secrets=editable)}),
            (
                gettext_lazy("Advanced"),
                {
                    "fields": (
                        "ca_certificates",
                        "ehlo_name",
                        "pipelining",
                        "max_recipients",
                        "max_connections",
                        *(("learned",) if obj else ()),
                    ),
                    "classes": ("collapse",),
                },
            ),
            *([(gettext_lazy("Times"), {"fields": ("last_check", "created", "updated")})] if obj else []),
        ]

    # -- pages --------------------------------------------------------------------------------------------------

    def get_form(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        form: Any = super().get_form(request, *args, **kwargs)
        form.session_tests = SessionTests(request)  # Django creates a new class for each request
        return form

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        before = active_pk()
        if request.method == "POST" and object_id is not None and self._is_gone(request, unquote(object_id)):
            return self._say_deleted(request, unquote(object_id))
        try:
            response: HttpResponse = super().changeform_view(request, object_id, *args, **kwargs)
        except ChangedMeanwhile:
            return self.changeform_view(request, object_id, *args, **kwargs)
        return self.say_what_follows(request, response, before)

    def _is_gone(self, request: HttpRequest, pk: str) -> bool:
        """Return whether the row was deleted; False for users who may not change it in the first place."""
        is_id = pk.isdecimal() and len(pk) < 19
        return self.has_change_permission(request) and is_id and not SMTPConfig.objects.filter(pk=pk).exists()

    def _say_deleted(self, request: HttpRequest, pk: str) -> HttpResponse:
        """Say that nothing was saved, and lead to the history of the deleted configuration, which can bring it back."""
        record = self.model.history.filter(id=pk).first()
        if record is None or not self.has_view_history_or_change_history_permission(request):
            text, page = _("Not saved: this configuration does not exist. It may have been deleted."), "changelist"
            self.message_user(request, text, messages.ERROR)
        else:
            text = _(
                "Not saved: “%(name)s” was deleted while the page was open. To add it again, choose a version of its "
                "history, which is shown here."
            )
            self.message_user(request, text % {"name": record.name}, messages.ERROR)
            page = "history"
        args = [quote(pk)] if page == "history" else []
        return HttpResponseRedirect(reverse(f"admin:email_integration_smtpconfig_{page}", args=args))

    def delete_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.method == "POST" and self.is_stale_deletion(request, [unquote(object_id)]):
            return HttpResponseRedirect(request.get_full_path())
        before = active_pk()
        response: HttpResponse = super().delete_view(request, object_id, *args, **kwargs)
        return self.say_what_follows(request, response, before)

    def history_form_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        # simple-history hides the button from users without the change permission, but accepts their form.
        if request.method == "POST" and not self.has_change_permission(request):
            raise PermissionDenied
        before = active_pk()
        try:
            response: HttpResponse = super().history_form_view(request, *args, **kwargs)
        except ChangedMeanwhile:
            return self.history_form_view(request, *args, **kwargs)
        return self.say_what_follows(request, response, before)

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> Any:
        config = kwargs.get("obj")
        why = config.why_unreadable if request.method == "GET" and config is not None else ""
        if why:
            lost = _(
                "The stored password cannot be opened with the keys in SMTP_PASSWORD_KEYS, so no mail goes through "
                "this server. Put the key it was sealed with back into SMTP_PASSWORD_KEYS, or enter the password again."
            )
            self.message_user(request, lost if why == UNREADABLE else str(why), messages.ERROR)
        context["email_may_test"] = self.has_test_permission(request)
        context["email_presets"] = PRESETS
        return super().render_change_form(request, context, *args, **kwargs)

    def save_model(self, request: HttpRequest, obj: SMTPConfig, form: Any, change: bool) -> None:
        """Save the configuration.

        The list only switches the active flag, because other fields may have changed meanwhile.
        """
        if isinstance(form, ListRowForm):
            form.save_flag()
            return
        with transaction.atomic(using=SMTPConfig.objects.db):
            if change:
                SMTPConfig.objects.lock()
                stored = SMTPConfig.objects.filter(pk=obj.pk).first()
                form.check_not_changed(stored)
                if not form.decides_active:  # also ignore a switch made after the form was checked
                    obj.is_active = stored is not None and stored.is_active
            super().save_model(request, obj, form, change)
            if form.was_tested:
                audit.note(obj, audit.Event.TESTED, user=request.user, reason="passed, before it was saved")
        late = not form.decides_active and obj.is_active != form.shown_active
        if change and "is_active" in form.fields and (form.overtaken or late):
            self.say_overtaken(request, obj)
        for warning in (
            *validators.encryption_warnings(
                port=obj.port, logs_in=obj.logs_in, use_tls=obj.use_tls, use_ssl=obj.use_ssl
            ),
            *validators.login_warnings(
                username=obj.username, password=bool(obj.sealed_password), by_token=obj.by_token
            ),
        ):
            self.message_user(request, warning, messages.WARNING)
