"""The admin site that asks for a second factor after the password, and lets users without one set it up."""

from __future__ import annotations

import logging
from typing import Any

import django_otp
from django import forms
from django.contrib import messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth import logout
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, URLResolver, path, reverse
from django.utils.decorators import method_decorator
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.cache import never_cache
from django_otp.plugins.otp_static.models import StaticDevice

from email_integration.reporting import sensitive_view

from . import codes, site
from .after_login import next_page
from .codes import Verification

logger = logging.getLogger(__name__)

#: The session key of the device that is being set up.
_PENDING = "admin_auth_pending"


class CodeForm(forms.Form):
    """A form for one code."""

    required_css_class = "required"
    code = forms.CharField(
        label=gettext_lazy("Code"),
        max_length=20,
        widget=forms.TextInput(
            attrs={"autocomplete": "one-time-code", "autofocus": True, "autocapitalize": "none", "spellcheck": "false"}
        ),
    )


class SecondFactorAdminSite(site.AdminSite):
    """The admin behind a password and a code."""

    def register(self, model_or_iterable: Any, admin_class: Any = None, **options: Any) -> None:
        """Register a model.

        Lists of devices cannot be filtered by their secrets, which django-otp only hides from the pages.
        """
        # Imported here, because the module registers its own pages with this site.
        from email_integration.admin.lookups import RestrictedLookups

        if admin_class is not None and admin_class.__module__.startswith("django_otp."):
            admin_class = type(admin_class.__name__, (RestrictedLookups, admin_class), {})
        super().register(model_or_iterable, admin_class, **options)

    def has_permission(self, request: HttpRequest) -> bool:
        return self._knows_password(request) and request.user.is_verified()  # type: ignore[union-attr]  # django-otp

    def _knows_password(self, request: HttpRequest) -> bool:
        return super().has_permission(request)

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        context = super().each_context(request)
        if context["has_permission"]:
            context["second_factor_url"] = reverse("admin:second_factor_setup")
        return context

    def get_urls(self) -> list[URLPattern | URLResolver]:
        return [
            path("code/", self.code_view, name="second_factor"),
            path("code/setup/", self.setup_view, name="second_factor_setup"),
            *super().get_urls(),
        ]

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Ask for the password, and redirect users who have entered it to the page of the code."""
        if request.method == "GET" and self._knows_password(request) and not self.has_permission(request):
            return self._on_to("second_factor", request)
        return super().login(request, extra_context)

    @method_decorator([never_cache, sensitive_view])
    def code_view(self, request: HttpRequest) -> HttpResponse:
        """Ask for a code."""
        if not self._knows_password(request) or "leave" in request.POST:
            return self._out(request)
        if self.has_permission(request):
            return HttpResponseRedirect(next_page(request))
        if not django_otp.user_has_device(request.user):
            return self._on_to("second_factor_setup", request)
        form, verification = CodeForm(request.POST or None), Verification()
        if form.is_valid():
            verification = codes.check(_user(request), form.cleaned_data["code"])
            if verification.device is not None:
                self._let_in(request, verification.device)
                return HttpResponseRedirect(next_page(request))
            self._refuse(form, verification, _("This code is wrong, or has been used before."))
        return self._page(request, "admin_auth/code.html", form, verification, title=_("Second factor"))

    @method_decorator([never_cache, sensitive_view])
    def setup_view(self, request: HttpRequest) -> HttpResponse:
        """Set up a device: the first one after the password alone, another one after the complete login."""
        if not self._knows_password(request) or "leave" in request.POST:
            return self._out(request)
        user, instead = _user(request), self.has_permission(request)
        if not instead and django_otp.user_has_device(user):
            return self._on_to("second_factor", request)
        device = codes.pending(user, request.session.get(_PENDING))
        request.session[_PENDING] = device.pk
        form, verification = CodeForm(request.POST or None), Verification()
        if form.is_valid():
            verification = codes.confirm(user, device, form.cleaned_data["code"], instead=instead)
            if verification.device is not None:
                del request.session[_PENDING]
                self._let_in(request, verification.device)
                words = _("A second factor was set up.")
                LogEntry.objects.log_actions(user.pk, [user], CHANGE, words, single_object=True)
                return self._page(
                    request, "admin_auth/recovery.html", form, verification, title=_("Your recovery codes")
                )
            self._refuse(form, verification, _("This code is wrong. Check that the clock of your device is right."))
        context = {"picture": codes.picture(device), "secret": codes.secret(device), "instead": instead}
        return self._page(
            request, "admin_auth/setup.html", form, verification, title=_("Set up a second factor"), **context
        )

    def _page(
        self, request: HttpRequest, template: str, form: CodeForm, verification: Verification, **context: Any
    ) -> HttpResponse:
        context = {
            **self.each_context(request),
            "form": form,
            "verification": verification,
            "next": next_page(request),
            **context,
        }
        headers = {"Retry-After": str(verification.wait)} if verification.wait else {}
        status = 429 if verification.wait else 200
        request.current_app = self.name
        return TemplateResponse(request, template, context, status=status, headers=headers)

    def _let_in(self, request: HttpRequest, device: Any) -> None:
        django_otp.login(request, device)
        request.session.cycle_key()
        if isinstance(device, StaticDevice):
            number = codes.left(_user(request))
            words = ngettext(
                "That recovery code is used up, and %(number)d is left. If you have lost your device, set up another.",
                "That recovery code is used up, and %(number)d are left. If you have lost your device, set up another.",
                number,
            )
            messages.warning(request, words % {"number": number})

    def _refuse(self, form: CodeForm, verification: Verification, words: str) -> None:
        logger.warning("A second factor was refused%s.", " without a check" if verification.wait else "")
        wait = ngettext(
            "Too many wrong codes. Try again in %(wait)d second.",
            "Too many wrong codes. Try again in %(wait)d seconds.",
            verification.wait,
        )
        form.add_error("code", wait % {"wait": verification.wait} if verification.wait else words)

    def _on_to(self, name: str, request: HttpRequest) -> HttpResponse:
        return HttpResponseRedirect(f"{reverse(f'admin:{name}')}?{urlencode({'next': next_page(request)})}")

    def _out(self, request: HttpRequest) -> HttpResponse:
        if request.method == "POST" and "leave" in request.POST:
            logout(request)
        return redirect_to_login(next_page(request), reverse("admin:login"))


def _user(request: HttpRequest) -> Any:
    """Return the user who has entered the password. The type checker does not know that it is not anonymous."""
    return request.user
