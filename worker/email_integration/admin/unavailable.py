"""Why there is no content, in the words of a reader."""

from __future__ import annotations

from django.utils.translation import gettext as _

from email_integration.exceptions import ContentUnavailable
from email_integration.message import content


def why_unavailable(error: Exception) -> str:
    """Why there is nothing to send; '' when that is not the matter."""
    if not isinstance(error, ContentUnavailable):
        return ""
    if str(error) == content.GONE:
        return _("its content is kept no longer")
    return _("it cannot be read (%(reason)s)") % {"reason": error}
