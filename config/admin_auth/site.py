"""Django's admin site with a limit on wrong passwords."""

from __future__ import annotations

import logging
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.decorators import method_decorator
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache

from email_integration.reporting import sensitive_view

from .attempts import LoginAttempt, account_of, address_of

logger = logging.getLogger(__name__)


class AdminSite(admin.AdminSite):
    """The admin behind a password."""

    @method_decorator([never_cache, sensitive_view])
    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Show Django's login page or, after too many wrong passwords, a page with the time to wait."""
        if request.method != "POST":
            return super().login(request, extra_context)
        name = request.POST.get("username", "")
        attempt = LoginAttempt(name=name, address=address_of(request), account=account_of(name))
        if wait := attempt.begin():
            logger.warning(
                "Too many logins from %s have failed; further ones are refused for %d s.", attempt.address, wait
            )
            context = {**self.each_context(request), "title": _("Log in"), "wait": wait}
            headers = {"Retry-After": str(wait)}
            return TemplateResponse(request, "admin_auth/refused.html", context, status=429, headers=headers)
        response = super().login(request, extra_context)
        if response.status_code == 302:
            attempt.succeed()
        return response
