"""Explain missing content in words for users."""

from __future__ import annotations

from django.utils.translation import gettext as _

from email_integration.exceptions import ContentGone, ContentUnavailable


def why_unavailable(error: Exception) -> str:
    """Return why the content cannot be sent, or '' if the error has another cause."""
    if not isinstance(error, ContentUnavailable):
        return ""
    if isinstance(error, ContentGone):
        return _("its content is kept no longer")
    return _("it cannot be read (%(reason)s)") % {"reason": error}
