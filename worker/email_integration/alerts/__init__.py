"""Notify people once when mail needs attention: compare the current problems with the active alerts.

``evaluate`` runs periodically. A new condition gets one row, which the database lets only one process create. That
process logs it, sends the signal, and notifies the web hook and ADMINS. The same happens when the condition is over. A
failed notification is tried again by later evaluations.
"""

from .evaluation import evaluate

__all__ = ["evaluate"]
