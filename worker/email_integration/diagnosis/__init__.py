"""Is everything in place for mail to leave? Each answer is a line that says what to do.

Read by ``manage.py validate_notification_setup``; what needs no network is in ``email_integration.checks`` too.
"""

from .findings import Finding, Level, Section, as_data, as_text, has_errors
from .report import diagnose

__all__ = ["Finding", "Level", "Section", "as_data", "as_text", "diagnose", "has_errors"]
