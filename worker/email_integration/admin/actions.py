"""The admin actions on selected configurations."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from email_integration.exceptions import SecretUnreadable
from email_integration.fields import why_unreadable
from email_integration.models import SMTPConfig
from email_integration.models.server import SECRETS
from email_integration.secrecy import with_secrets

from . import connection_tests, stale
from .config_list import ListViews
from .connection_tests import ConnectionTestViews
from .forms import TestAddressForm


class ConfigActions(ConnectionTestViews, ListViews):
    """Activate, deactivate, test, duplicate."""

    actions = ("activate", "deactivate", "test_connection", "send_test_mail", "send_test_mail_to", "duplicate")

    def has_activate_permission(self, request: HttpRequest) -> bool:
        """Return whether the user has the separate permission to activate and deactivate configurations."""
        return request.user.has_perm("email_integration.activate_smtpconfig")

    @admin.action(description=gettext_lazy("Activate"), permissions=["activate"])
    def activate(self, request: HttpRequest, queryset: Any) -> None:
        """Activate the selected configuration."""
        config = self._the_one(request, queryset, _("Select the one configuration to activate."))
        if config is None:
            return
        try:
            stale.check_seen(request.POST.get("seen"), config)
            SMTPConfig.objects.activate(config)
        except ValidationError as error:
            self.message_user(request, " ".join(error.messages), messages.ERROR)
            return
        self.log_change(request, config, _("Activated."))
        self.message_user(request, _("“%(name)s” is active now.") % {"name": config.name}, messages.SUCCESS)

    @admin.action(description=gettext_lazy("Deactivate"), permissions=["activate"])
    def deactivate(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        """Deactivate the selected configuration, after the user confirms that none will be active."""
        active = queryset.filter(is_active=True).first()
        if active is None:
            self.message_user(request, _("None of the selected configurations is active."), messages.WARNING)
            return None
        if "confirmed" not in request.POST:
            sent = [("action", "deactivate"), (helpers.ACTION_CHECKBOX_NAME, active.pk)]
            return self.ask_to_deactivate(request, active, sent)
        SMTPConfig.objects.filter(pk=active.pk).update(is_active=False)
        self.log_change(request, active, _("Deactivated."))
        return None

    @admin.action(description=gettext_lazy("Test connection"), permissions=["test"])
    def test_connection(self, request: HttpRequest, queryset: Any) -> None:
        """Test each selected configuration with its stored settings."""
        for config in queryset:
            self._show_result(request, config, connection_tests.run_stored(config, user=request.user))

    @admin.action(description=gettext_lazy("Send a test mail to me"), permissions=["test"])
    def send_test_mail(self, request: HttpRequest, queryset: Any) -> None:
        """Send a mail through each selected configuration with its stored settings."""
        address = getattr(request.user, "email", "")
        for config in queryset:
            self._show_result(request, config, connection_tests.run_stored(config, user=request.user, send_to=address))

    @admin.action(description=gettext_lazy("Send a test mail to another address…"), permissions=["test"])
    def send_test_mail_to(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        """Ask for an address, then send a mail to it through each selected configuration."""
        form = TestAddressForm(request.POST if "test_address" in request.POST else None)
        if not form.is_valid():
            context = {
                **self.admin_site.each_context(request),
                "title": _("Send a test mail to another address"),
                "opts": self.opts,
                "configs": queryset,
                "form": form,
                "action_checkbox_name": helpers.ACTION_CHECKBOX_NAME,
            }
            return TemplateResponse(request, "email_integration/test_address.html", context)
        address = form.cleaned_data["test_address"]
        for config in queryset:
            test = connection_tests.run_stored(config, user=request.user, send_to=address)
            self.note_recipient(request, config, test)
            self._show_result(request, config, test)
        return None

    @admin.action(description=gettext_lazy("Duplicate"), permissions=["add"])
    def duplicate(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        """Copy each selected configuration. The copy is inactive and untested.

        If the user may change configurations, the copy has the stored password or OAuth secrets, for the same server
        and user: such a user can use them anyway. Otherwise the copy has none. The secrets are encrypted again, for the
        row of the copy. Secrets that cannot be decrypted are left out.
        """
        copies = []
        for config in queryset:
            secrets = self._secrets_of(request, config) if self.has_change_permission(request, config) else {}
            copy = SMTPConfig(
                name=_free_name(config.name),
                host=config.host,
                port=config.port,
                username=config.username,
                authentication=config.authentication,
                oauth_grant=config.oauth_grant,
                oauth_endpoint=config.oauth_endpoint,
                oauth_authorization_endpoint=config.oauth_authorization_endpoint,
                oauth_client_id=config.oauth_client_id,
                oauth_scope=config.oauth_scope,
                oauth_secret_ends=config.oauth_secret_ends,
                **secrets,
                use_tls=config.use_tls,
                use_ssl=config.use_ssl,
                ca_certificates=config.ca_certificates,
                ehlo_name=config.ehlo_name,
                pipelining=config.pipelining,
                max_recipients=config.max_recipients,
                max_connections=config.max_connections,
                from_email=config.from_email,
                timeout=config.timeout,
            )
            copy.save()
            self.log_addition(request, copy, _("Duplicated from “%(name)s”.") % {"name": config.name})
            copies.append(copy)
            self.message_user(request, _("“%(name)s” was added.") % {"name": copy.name}, messages.SUCCESS)
        if len(copies) == 1 and self.has_change_permission(request, copies[0]):
            return HttpResponseRedirect(reverse("admin:email_integration_smtpconfig_change", args=[copies[0].pk]))
        return None

    @with_secrets
    def _secrets_of(self, request: HttpRequest, config: SMTPConfig) -> dict[str, str]:
        try:
            return {name: str(getattr(config, name)) for name in SECRETS}
        except SecretUnreadable as error:
            self.message_user(request, f"“{config.name}”: {why_unreadable(error)}", messages.WARNING)
            return {}

    def _the_one(self, request: HttpRequest, queryset: Any, otherwise: str) -> SMTPConfig | None:
        found = list(queryset[:2])
        if len(found) == 1:
            return found[0]  # type: ignore[no-any-return]  # Django passes untyped objects to an action
        self.message_user(request, otherwise, messages.ERROR)
        return None

    def _show_result(self, request: HttpRequest, config: SMTPConfig, test: connection_tests.ConnectionTest) -> None:
        place = {"name": config.name, "host": config.host, "port": config.port, "to": test.sent_to}
        if test.report is None:
            self.message_user(request, f"“{config.name}”: {' '.join(test.problems)}", messages.ERROR)
        elif test.report.failure is not None and test.advice is not None:
            place |= {"said": test.report.stages[-1].detail, "advice": test.advice.text}
            text = _("“%(name)s” (%(host)s:%(port)s) does not work: %(said)s – %(advice)s")
            self.message_user(request, text % place, messages.ERROR)
        elif test.sent_to:
            text = _("“%(name)s” (%(host)s:%(port)s) took a test mail for %(to)s.")
            self.message_user(request, text % place, messages.SUCCESS)
        else:
            text = _("“%(name)s” (%(host)s:%(port)s) works.")
            self.message_user(request, text % place, messages.SUCCESS)
        for note in test.notes:
            self.message_user(request, f"“{config.name}”: {note}", messages.WARNING)


def _free_name(name: str) -> str:
    longest = SMTPConfig._meta.get_field("name").max_length or 100
    for number in range(1, 1000):
        suffix = _(" (copy)") if number == 1 else _(" (copy %(number)s)") % {"number": number}
        found = f"{name[: longest - len(suffix)]}{suffix}"
        if not SMTPConfig.objects.filter(name=found).exists():
            return found
    raise ValidationError(_("There are too many copies of this configuration."))
