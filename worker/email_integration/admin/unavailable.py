"""Why there is no content, in the words of a reader."""

from __future__ import annotations

from django.utils.translation import gettext as _

from email_integration.exceptions import ContentGone, ContentUnavailable


def why_unavailable(error: Exception) -> str:
    """Why there is nothing to send; '' when that is not the matter."""
    if not isinstance(error, ContentUnavailable):
        return ""
    if isinstance(error, ContentGone):
        return _("its content is kept no longer")
    return _("it cannot be read (%(reason)s)") % {"reason": error}
