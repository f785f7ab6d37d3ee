"""Diagnose whether the set-up can send mail, and suggest a fix for each problem.

``manage.py validate_notification_setup`` runs the whole diagnosis. The checks that need no network are also system
checks, in ``email_integration.checks``.
"""

from .findings import Finding, Level, Section, as_data, as_text, has_errors
from .report import diagnose

__all__ = ["Finding", "Level", "Section", "as_data", "as_text", "diagnose", "has_errors"]
