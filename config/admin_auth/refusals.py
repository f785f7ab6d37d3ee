"""The pages for requests that have no other answer, in the look of the admin and with a way back."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth.models import Permission
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.translation import gettext as _
from django.views import defaults

#: The permission for each of Django's own pages, by the end of the name of its address.
_OF_PAGE = {"changelist": "view", "change": "view", "history": "view", "add": "add", "delete": "delete"}


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Say which permission is missing, to users of the admin. It does not depend on the object that was asked for."""
    name = _missing(request, exception)
    context = {"title": _("You may not do this"), "permission": name, "words": _words(name)}
    return _page(request, "admin_auth/forbidden.html", context)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Say that the form was not accepted. The ``reason`` is for developers, and is in the log."""
    return _page(request, "admin_auth/old_form.html", {"title": _("The form was not accepted")})


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Say that there is no such page."""
    text = _("There is nothing at this address. It may have been deleted, or the link is incomplete.")
    return _page(request, _PROBLEM, {"title": _("Page not found"), "text": text}, status=404)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Say that the address or the form was not understood."""
    text = _("The address or the form has a value that is not understood. Nothing was changed.")
    return _page(request, _PROBLEM, {"title": _("Bad request"), "text": text}, status=400)


def method_not_allowed(request: HttpRequest) -> TemplateResponse:
    """Say that the address is only for a button of the admin. Used for a logout by a link or a bookmark."""
    text = _("This address is not a page. Use the buttons and links of the admin instead.")
    return _page(request, _PROBLEM, {"title": _("Not a page"), "text": text}, status=405)


def server_error(request: HttpRequest) -> HttpResponse:
    """Say that the request has failed, without the database, which may be the cause."""
    return defaults.server_error(request, "admin_auth/server_error.html")


_PROBLEM = "admin_auth/problem.html"


def _page(request: HttpRequest, template: str, context: dict[str, Any], *, status: int = 403) -> TemplateResponse:
    # A request with a wrong Host header is refused before its user is known.
    frame = admin.site.each_context(request) if hasattr(request, "user") else {}
    headers = {"Cache-Control": "no-store"}
    response = TemplateResponse(request, template, {**frame, **context}, status=status, headers=headers)
    response.render()
    return response


def _missing(request: HttpRequest, exception: Exception) -> str:
    """Return the name of the missing permission, or '' if it is not known, or not for this user to know."""
    if not admin.site.has_permission(request):
        return ""
    name = getattr(exception, "permission", "") or _of_page(request)
    return "" if request.user.has_perm(name) else name


def _of_page(request: HttpRequest) -> str:
    """Return the permission for one of Django's own pages, or ''."""
    match = request.resolver_match
    model_admin = getattr(match.func, "model_admin", None) if match else None
    if match is None or model_admin is None:
        return ""
    opts = model_admin.opts
    page = (match.url_name or "").removeprefix(f"{opts.app_label}_{opts.model_name}_")
    kind = "change" if request.method == "POST" and page == "change" else _OF_PAGE.get(page)
    return f"{opts.app_label}.{kind}_{opts.model_name}" if kind else ""


def _words(name: str) -> str:
    app, _dot, codename = name.partition(".")
    found = Permission.objects.filter(content_type__app_label=app, codename=codename).first() if codename else None
    return _(found.name) if found else ""
