"""The signals of this app.

``delivery_*`` and ``recipient_refused`` report the outcome of a mail to the application. The process that recorded the
outcome sends them after its commit, at most once. A process that is killed in between sends none, so use ``link`` and
``link_error`` for events that must not be missed. An exception in a receiver is logged. The sender is ``Delivery``; the
argument ``delivery`` is the row as it was recorded at that time.

``config_changing`` and ``config_changed`` surround every write to ``SMTPConfig`` that sends none of Django's own model
signals (``QuerySet.update()``, ``bulk_create()``).
"""

from __future__ import annotations

from django.dispatch import Signal

#: Sent before rows are written. Argument ``using``: the database alias.
config_changing = Signal()

#: Sent after rows were written, inside the same transaction. Argument ``using``: the database alias.
config_changed = Signal()

#: The server accepted the mail for at least one recipient. Argument ``delivery``.
delivery_accepted = Signal()

#: The mail was permanently refused, given up or quarantined. Argument ``delivery``; see its ``status`` and ``cause``.
delivery_failed = Signal()

#: The mail was not accepted in time. Argument ``delivery``.
delivery_expired = Signal()

#: The server may or may not have the mail. Argument ``delivery``: it is sent again unless its ``status`` is 'in_doubt'.
delivery_in_doubt = Signal()

#: A condition began that people should know about. Argument ``alert``: the row of ``models.Alert``, with ``kind``,
#: ``subject``, ``text`` and ``since``. The sender is ``Alert``.
alert_began = Signal()

#: The condition has ended. Argument ``alert``, now with ``ended_at`` too.
alert_ended = Signal()

#: One recipient was permanently refused. Arguments ``delivery`` and ``recipient``, a dictionary with 'address', 'code',
#: 'reply' (the server's text), 'cause' (a value of ``outcomes.causes.Cause``) and 'reason' (this app's description of
#: it).
recipient_refused = Signal()
