"""Is everything in place for mail to leave? Each answer is a line that says what to do.

Read by ``manage.py validate_notification_setup``; what needs no network is in ``email_integration.checks`` too.
"""

from .examine import examine
from .findings import Finding, Level, Section, as_data, as_text, has_errors

__all__ = ["Finding", "Level", "Section", "as_data", "as_text", "examine", "has_errors"]
