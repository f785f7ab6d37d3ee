"""The Content Security Policy of every page: only resources of this site, no inline scripts and no inline styles.

From 6.0 on, Django adds it to each response (``SECURE_CSP``). The middleware here does the same for Django 5.2.
"""

from __future__ import annotations

from collections.abc import Callable

import django
from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase

HEADER = "Content-Security-Policy"

#: The value of ``SECURE_CSP``.
DIRECTIVES: dict[str, list[str]] = {
    "default-src": ["'self'"],
    "img-src": ["'self'", "data:"],
    "object-src": ["'none'"],
    "base-uri": ["'none'"],
    "form-action": ["'self'"],
    "frame-ancestors": ["'none'"],
}

POLICY = "; ".join(f"{directive} {' '.join(sources)}" for directive, sources in DIRECTIVES.items())

#: The middleware for the Django in use.
MIDDLEWARE: str = (
    "django.middleware.csp.ContentSecurityPolicyMiddleware"
    if django.VERSION >= (6, 0)
    else "config.policy.ContentSecurityPolicy"
)


class ContentSecurityPolicy:
    """Middleware that adds the policy to each response that has none."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        # Django's debug pages for errors of the project use inline styles and scripts.
        if not (settings.DEBUG and response.status_code in (404, 500)):
            response.headers.setdefault(HEADER, POLICY)
        return response
