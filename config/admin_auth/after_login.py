"""The page after the login."""

from __future__ import annotations

from urllib.parse import urlsplit

from django.http import HttpRequest
from django.urls import Resolver404, resolve, reverse
from django.utils.http import url_has_allowed_host_and_scheme


def next_page(request: HttpRequest) -> str:
    """Return the page that ``next`` names if it is one of this site, or else the index of the admin."""
    address = request.POST.get("next") or request.GET.get("next") or ""
    safe = url_has_allowed_host_and_scheme(address, {request.get_host()}, require_https=request.is_secure())
    return address if safe and _exists(address) else reverse("admin:index")


def page_to_return_to(request: HttpRequest) -> str:
    """Return the page to show after the login that interrupted this request.

    An action was interrupted on the page that it was sent from: its own address may have no page.
    """
    if request.method in ("GET", "HEAD"):
        return request.get_full_path()
    address = request.headers.get("Referer", "")
    safe = url_has_allowed_host_and_scheme(address, {request.get_host()}, require_https=request.is_secure())
    parts = urlsplit(address if safe else "")
    return parts._replace(scheme="", netloc="", fragment="").geturl() or reverse("admin:index")


def _exists(address: str) -> bool:
    try:
        found = resolve(urlsplit(address).path)
    except Resolver404:
        return False
    return found.url_name is not None  # Django's own page for all other addresses of the admin has no name
