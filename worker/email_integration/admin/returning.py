"""Return to the page on which an action was requested."""

from __future__ import annotations

from urllib.parse import urlsplit

from django.http import HttpRequest
from django.urls import Resolver404, resolve, reverse
from django.utils.http import url_has_allowed_host_and_scheme

#: The name of the hidden field, and of the parameter of a link.
FIELD = "next"


def asked_on(request: HttpRequest) -> str:
    """Return the address of the page that ``request`` names, if it is a page of the admin here, or else ''."""
    given = request.POST.get(FIELD) or request.GET.get(FIELD) or ""
    # The path alone: another host, a scheme or '//' cannot be part of it.
    safe = url_has_allowed_host_and_scheme(given, allowed_hosts=None, require_https=request.is_secure())
    if not safe or not given.startswith(reverse("admin:index")):
        return ""
    try:
        found = resolve(urlsplit(given).path)
    except Resolver404:
        return ""
    return given if found.url_name else ""  # Django's own page for unknown addresses has no name


def here(request: HttpRequest) -> str:
    """Return the address of the page itself, for links from it."""
    return request.get_full_path() if request.method == "GET" else ""
