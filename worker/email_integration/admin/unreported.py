"""Pages of the admin of which no report of an error shows what was typed or stored."""

from __future__ import annotations

from django.urls import URLPattern

from email_integration.reporting import unreported

from .typing import AnyModelAdmin


class UnreportedViews(AnyModelAdmin):
    """All pages of one model, from the question on who may see them."""

    def get_urls(self) -> list[URLPattern]:
        patterns = super().get_urls()
        for pattern in patterns:
            pattern.callback = unreported(pattern.callback)
        return patterns
