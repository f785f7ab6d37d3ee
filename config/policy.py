"""The Content Security Policy of every page: this site alone, no script and no style that is written into the page.

Django gives it to each response from 6.0 on (``SECURE_CSP``). The middleware here does the same for Django 5.2.
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
    """Middleware that gives the policy to each response that has none of its own."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        # Django's pages about an error of the project's are made of styles and scripts that stand in them.
        if not (settings.DEBUG and response.status_code in (404, 500)):
            response.headers.setdefault(HEADER, POLICY)
        return response
