"""The signals of this app.

``config_changing`` and ``config_changed`` surround every write to ``SMTPConfig`` that Django's own model signals do
not see (``QuerySet.update()``, ``bulk_create()``).
"""

from __future__ import annotations

from django.dispatch import Signal

#: Sent before rows are written. Argument ``using``: the database alias.
config_changing = Signal()

#: Sent after rows were written, inside the same transaction. Argument ``using``: the database alias.
config_changed = Signal()
