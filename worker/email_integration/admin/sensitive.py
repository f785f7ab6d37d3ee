"""Sensitive pages of the admin: no report of an error shows what was typed or stored."""

from __future__ import annotations

from django.urls import URLPattern

from email_integration.reporting import sensitive_view

from .typing import AnyModelAdmin


class SensitiveViews(AnyModelAdmin):
    """All pages of one model, from the question on who may see them."""

    def get_urls(self) -> list[URLPattern]:
        patterns = super().get_urls()
        for pattern in patterns:
            pattern.callback = sensitive_view(pattern.callback)
        return patterns
