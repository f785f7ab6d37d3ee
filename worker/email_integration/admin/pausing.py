"""Pause and resume all sending."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext as _

from email_integration.models import SendingPause

from . import returning
from .refusing import require
from .typing import ConfigModelAdmin


class PauseViews(ConfigModelAdmin):
    """Two pages that ask before they act, and return to the page that led to them."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("pause/", view(self.pause_view), name="email_integration_pause"),
            path("resume/", view(self.resume_view), name="email_integration_resume"),
            *super().get_urls(),
        ]

    def pause_view(self, request: HttpRequest) -> HttpResponse:
        """Ask for a reason, then pause."""
        require(request, "email_integration.pause_sending")
        if request.method == "POST":
            SendingPause.begin(by=request.user, reason=request.POST.get("reason", "").strip())
            return self._done(request)
        return self._ask(request, {"title": _("Pause all sending?"), "resume": False})

    def resume_view(self, request: HttpRequest) -> HttpResponse:
        """Show the pause, then resume."""
        require(request, "email_integration.pause_sending")
        if request.method == "POST":
            SendingPause.end()
            return self._done(request)
        pause = SendingPause.objects.first()
        return self._ask(request, {"title": _("Resume sending?"), "resume": True, "pause": pause})

    def _ask(self, request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
        context |= {**self.admin_site.each_context(request), "opts": self.opts, "next": self._next(request)}
        return TemplateResponse(request, "email_integration/pause.html", context)

    def _done(self, request: HttpRequest) -> HttpResponse:
        if SendingPause.current() is None:  # if not, the notice at the top of the page says so
            self.message_user(request, _("Sending is resumed. All held mail is sent now."), messages.SUCCESS)
        return HttpResponseRedirect(self._next(request))

    def _next(self, request: HttpRequest) -> str:
        page = "email_integration_smtpconfig_changelist" if self.has_view_permission(request) else "index"
        return returning.asked_on(request) or reverse(f"admin:{page}")
