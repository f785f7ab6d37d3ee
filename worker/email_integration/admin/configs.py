"""The admin pages of SMTP configurations."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import flatten_fieldsets
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from email_integration import conf, validators
from email_integration.fields import UNREADABLE
from email_integration.models import SMTPConfig, login
from email_integration.routing import generation
from email_integration.timezones import local_time

from . import quirks, routing_status
from .actions import ConfigActions
from .breakers import BreakerViews
from .connection_tests import ConnectionTestViews
from .consent import ConsentViews
from .forms import ListFormSet, ListRowForm, SMTPConfigForm
from .history import HistoryPage
from .lookups import RestrictedLookups
from .pausing import PauseViews
from .presets import PRESETS
from .sensitive import SensitiveViews


def _when(at: dt.datetime) -> str:
    return date_format(local_time(at), "SHORT_DATETIME_FORMAT")


def _login_fields(config: SMTPConfig | None, *, secrets: bool) -> tuple[str, ...]:
    """Return the fields of the login. The page's script shows those that the chosen method needs."""
    return (
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


@admin.register(SMTPConfig)
class SMTPConfigAdmin(  # type: ignore[misc]  # the last class is untyped
    SensitiveViews,
    RestrictedLookups,
    ConnectionTestViews,
    ConsentViews,
    PauseViews,
    BreakerViews,
    ConfigActions,
    HistoryPage,
):
    """One row per server. The list shows which one is active."""

    form = SMTPConfigForm
    list_display = ("name", "host", "port", "username", "encryption", "is_active", "last_check", "updated_at")
    list_editable = ("is_active",)
    list_filter = ("is_active", "use_tls", "use_ssl")
    search_fields = ("name", "host", "username")
    search_help_text = gettext_lazy("Name, host or username")
    readonly_fields = ("last_check", "consent", "token_state", "learned", "created_at", "updated_at")
    ordering = ("name",)

    class Media:
        css = {"all": ("email_integration/admin.css",)}
        js = ("email_integration/config_form.js",)

    # -- columns ------------------------------------------------------------------------------------------------

    @admin.display(description=gettext_lazy("encryption"))
    def encryption(self, config: SMTPConfig) -> str:
        """Return TLS (STARTTLS), SSL, or none."""
        if config.use_tls and config.use_ssl:
            return _("TLS and SSL: impossible")
        return "TLS" if config.use_tls else "SSL" if config.use_ssl else _("none")

    @admin.display(description=gettext_lazy("last check"), ordering="tested_at")
    def last_check(self, config: SMTPConfig) -> str:
        """Return the time and result of the last test; if the password cannot be decrypted, that comes first."""
        if not config.is_readable:
            return format_html('<span class="email-check failed">{}</span>', _("password unreadable"))
        if config.tested_at is None:
            return format_html('<span class="email-check">{}</span>', _("never"))
        place = {"when": _when(config.tested_at), "detail": config.test_detail}
        if not config.test_passed:
            text, kind = _("failed %(when)s: %(detail)s") % place, "failed"
        elif config.passed_test:
            text, kind = _("passed %(when)s") % place, "passed"
        else:
            text, kind = _("passed %(when)s, changed since") % place, "outdated"
        return format_html('<span class="email-check {}">{}</span>', kind, text)

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
            said.append(_("valid until %(when)s") % {"when": _when(token.expires_at)})
        if token.failed_at is not None:
            place = {"when": _when(token.failed_at), "why": token.error}
            said.append(_("none could be fetched %(when)s: %(why)s") % place)
        return "; ".join(said)

    @admin.display(description=gettext_lazy("learned about the server"))
    def learned(self, config: SMTPConfig) -> str:
        """Return the learned properties of the server, which it does not announce."""
        row = quirks.of_configuration(config)
        return quirks.words(row) if row is not None else _("nothing")

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
        activating = ("is_active", "confirm_none_active") if self.has_activate_permission(request) else ("is_active",)
        return [
            (None, {"fields": ("name", "from_email", *(activating if editable else ("is_active",)))}),
            (gettext_lazy("Server"), {"fields": ("host", "port", "use_tls", "use_ssl", "timeout")}),
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
            *([(gettext_lazy("Times"), {"fields": ("last_check", "created_at", "updated_at")})] if obj else []),
        ]

    # -- pages --------------------------------------------------------------------------------------------------

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
        before = self._active_pk()
        try:
            response: HttpResponse = super().changelist_view(request, extra_context)
        except (ValidationError, SMTPConfig.DoesNotExist) as error:  # changed or deleted after the rows were checked
            words = error.messages if isinstance(error, ValidationError) else [_("It has been deleted meanwhile.")]
            self.message_user(request, " ".join(words), messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())
        if overtaken and response.status_code == 302 and self._active_pk() == before:
            self._say_overtaken(request, overtaken[0])
        return self._say_what_follows(request, response, before)

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        before = self._active_pk()
        response: HttpResponse = super().changeform_view(request, *args, **kwargs)
        return self._say_what_follows(request, response, before)

    def delete_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        before = self._active_pk()
        response: HttpResponse = super().delete_view(request, *args, **kwargs)
        return self._say_what_follows(request, response, before)

    def history_form_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        # simple-history hides the button from users without the change permission, but accepts their form.
        if request.method == "POST" and not self.has_change_permission(request):
            raise PermissionDenied
        before = self._active_pk()
        response: HttpResponse = super().history_form_view(request, *args, **kwargs)
        return self._say_what_follows(request, response, before)

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
            if obj.is_active:
                SMTPConfig.objects.activate(obj)
            else:
                SMTPConfig.objects.filter(pk=obj.pk, is_active=True).update(is_active=False)
            return
        with transaction.atomic(using=SMTPConfig.objects.db):
            if change and not form.decides_active:  # also ignore a switch made after the form was checked
                SMTPConfig.objects.lock()
                obj.is_active = SMTPConfig.objects.filter(pk=obj.pk, is_active=True).exists()
            super().save_model(request, obj, form, change)
        late = not form.decides_active and obj.is_active != form.shown_active
        if change and "is_active" in form.fields and (form.overtaken or late):
            self._say_overtaken(request, obj)
        for warning in (
            *validators.encryption_warnings(
                port=obj.port, logs_in=obj.logs_in, use_tls=obj.use_tls, use_ssl=obj.use_ssl
            ),
            *validators.login_warnings(
                username=obj.username, password=bool(obj.sealed_password), by_token=obj.by_token
            ),
        ):
            self.message_user(request, warning, messages.WARNING)

    def _say_overtaken(self, request: HttpRequest, config: SMTPConfig) -> None:
        """Warn that ``config`` was switched elsewhere while the page was open, and that this page did not undo it."""
        active = SMTPConfig.objects.filter(is_active=True).first()
        text = (
            _("Meanwhile “%(name)s” was activated; this page left that as it is.")
            if active is not None
            else _("Meanwhile “%(name)s” was deactivated; this page left that as it is.")
        )
        self.message_user(request, text % {"name": (active or config).name}, messages.WARNING)

    def _active_pk(self) -> Any:
        return SMTPConfig.objects.filter(is_active=True).values_list("pk", flat=True).first()

    def _say_what_follows(self, request: HttpRequest, response: HttpResponse, before: Any) -> HttpResponse:
        """Add warnings after a committed write: no configuration is active, or workers will notice the change late."""
        if request.method != "POST" or response.status_code != 302:
            return response
        if before is not None and self._active_pk() is None:
            self.message_user(request, routing_status.without_any(), messages.WARNING)
        if not generation.is_reachable():
            text = _("The shared cache is out of reach: workers follow this change within %(seconds)s seconds.")
            self.message_user(request, text % {"seconds": f"{conf.get('CONFIG_CACHE_TTL'):g}"}, messages.WARNING)
        return response
