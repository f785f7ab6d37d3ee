"""Pause and resume all sending."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext as _

from email_integration.models import SendingPause

from .typing import ConfigModelAdmin


class PauseViews(ConfigModelAdmin):
    """Two pages that ask before they act."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("pause/", view(self.pause_view), name="email_integration_pause"),
            path("resume/", view(self.resume_view), name="email_integration_resume"),
            *super().get_urls(),
        ]

    def pause_view(self, request: HttpRequest) -> HttpResponse:
        """Ask for a reason, then pause."""
        context = {"title": _("Pause all sending?"), "resume": False}
        if request.method == "POST":
            _allow(request)
            SendingPause.begin(by=request.user, reason=request.POST.get("reason", "").strip())
            return self._done(request)
        return self._ask(request, context)

    def resume_view(self, request: HttpRequest) -> HttpResponse:
        """Show the pause, then resume."""
        context = {"title": _("Resume sending?"), "resume": True, "pause": SendingPause.objects.first()}
        if request.method == "POST":
            _allow(request)
            SendingPause.end()
            return self._done(request)
        return self._ask(request, context)

    def _ask(self, request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
        _allow(request)
        context |= {**self.admin_site.each_context(request), "opts": self.opts}
        return TemplateResponse(request, "email_integration/pause.html", context)

    def _done(self, request: HttpRequest) -> HttpResponse:
        if SendingPause.current() is None:  # if not, the notice at the top of the page says so
            self.message_user(request, _("Sending goes on. What waited is sent now."), messages.SUCCESS)
        page = "email_integration_smtpconfig_changelist" if self.has_view_permission(request) else "index"
        return HttpResponseRedirect(reverse(f"admin:{page}"))


def _allow(request: HttpRequest) -> None:
    if not request.user.has_perm("email_integration.pause_sending"):
        raise PermissionDenied
