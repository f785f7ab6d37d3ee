"""Sensitive pages of the admin: error reports do not contain submitted or stored values."""

from __future__ import annotations

from django.urls import URLPattern

from email_integration.reporting import sensitive_view

from .typing import AnyModelAdmin


class SensitiveViews(AnyModelAdmin):
    """Protects all pages of one model, including their permission checks."""

    def get_urls(self) -> list[URLPattern]:
        patterns = super().get_urls()
        for pattern in patterns:
            pattern.callback = sensitive_view(pattern.callback)
        return patterns
