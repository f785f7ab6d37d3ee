"""Django's admin site with a limit on wrong passwords."""

from __future__ import annotations

import functools
import logging
from typing import Any

from django.contrib import admin
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache

from email_integration.reporting import sensitive_view

from .after_login import next_page, page_to_return_to
from .attempts import LoginAttempt, account_of, address_of
from .refusals import method_not_allowed

logger = logging.getLogger(__name__)


class AdminSite(admin.AdminSite):
    """The admin behind a password."""

    @method_decorator([never_cache, sensitive_view])
    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Show Django's login page or, after too many wrong passwords, a page with the time to wait."""
        if request.method != "POST":
            if self.has_permission(request):  # has logged in in another window meanwhile
                return HttpResponseRedirect(next_page(request))
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
            return HttpResponseRedirect(next_page(request))  # Django's own choice may lead to no page
        return response

    @method_decorator(never_cache)
    def logout(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        """Log out by the button. A link or a bookmark leads to a page, where Django's own answer is empty."""
        response = super().logout(request, extra_context)
        return method_not_allowed(request) if response.status_code == 405 else response

    def admin_view(self, view: Any, cacheable: bool = False) -> Any:
        """Send users who must log in first back to the page that they were on."""
        inner = super().admin_view(view, cacheable)

        @functools.wraps(inner)
        def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            if request.method == "POST" and view != self.logout and not self.has_permission(request):
                return redirect_to_login(page_to_return_to(request), reverse("admin:login", current_app=self.name))
            response: HttpResponse = inner(request, *args, **kwargs)
            return response

        return wrapped
