"""Retry a failed server immediately."""

from __future__ import annotations

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext as _

from email_integration import routing
from email_integration.queue import retry_now
from email_integration.smtp import Relay

from . import returning
from .refusing import MissingPermission
from .typing import ConfigModelAdmin


class BreakerViews(ConfigModelAdmin):
    """The URL behind the button. Users who may not change configurations get 403."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [path("try-now/", view(self.try_now_view), name="email_integration_try_now"), *super().get_urls()]

    def try_now_view(self, request: HttpRequest) -> HttpResponse:
        """Probe the server in use, which is at fault, with the mail that waits for it."""
        if not self.has_change_permission(request):
            raise MissingPermission("email_integration.change_smtpconfig")
        if request.method != "POST":
            raise PermissionDenied
        relay = routing.active_relay()
        if isinstance(relay, Relay):  # if not, the notice at the top of the page says so
            retry_now.try_now(relay)
            text = _("Retrying mail held for “%(name)s” now.")
            self.message_user(request, text % {"name": relay.name}, messages.SUCCESS)
        listed = reverse("admin:email_integration_smtpconfig_changelist")
        return HttpResponseRedirect(returning.asked_on(request) or listed)
