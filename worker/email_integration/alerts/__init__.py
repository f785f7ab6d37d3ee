"""Notify people when mail needs them, once: compare what is wrong now with the alerts that are on.

``evaluate`` runs every so often. A condition that was not on yet gets one row, which the database lets only one process
make: that process logs it, sends the signal, and notifies the web hook and ADMINS. The same happens when it is over. A
notification that failed is tried again by later evaluations.
"""

from .evaluation import evaluate

__all__ = ["evaluate"]
