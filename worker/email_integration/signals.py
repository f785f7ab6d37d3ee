"""The signals of this app.

``delivery_*`` and ``recipient_refused`` tell the application what became of a mail. They are sent by the process that
recorded it, after its commit, and at most once: a process that is killed in between sends none, so that what must not
be missed belongs into ``link`` and ``link_error``. What a receiver raises is logged. The sender is ``Delivery``; the
argument ``delivery`` is the row as it was recorded then.

``config_changing`` and ``config_changed`` surround every write to ``SMTPConfig`` that Django's own model signals do
not see (``QuerySet.update()``, ``bulk_create()``).
"""

from __future__ import annotations

from django.dispatch import Signal

#: Sent before rows are written. Argument ``using``: the database alias.
config_changing = Signal()

#: Sent after rows were written, inside the same transaction. Argument ``using``: the database alias.
config_changed = Signal()

#: The server took the mail for at least one recipient. Argument ``delivery``.
delivery_accepted = Signal()

#: The mail was refused for good, given up or put aside. Argument ``delivery``; its ``status`` and ``cause`` say which.
delivery_failed = Signal()

#: The mail was not accepted in time. Argument ``delivery``.
delivery_expired = Signal()

#: The server may or may not have the mail. Argument ``delivery``: it is sent again unless its ``status`` is 'in_doubt'.
delivery_in_doubt = Signal()

#: Something began that a person should know of. Argument ``alert``: the row of ``models.Alert``, with ``kind``,
#: ``subject``, ``text`` and ``since``. The sender is ``Alert``.
alert_began = Signal()

#: It is over. Argument ``alert``, with ``ended_at`` too.
alert_ended = Signal()

#: One recipient was refused for good. Arguments ``delivery`` and ``recipient``, a dictionary with 'address', 'code',
#: 'reply' (the server's own words), 'cause' (a value of ``outcomes.causes.Cause``) and 'reason' (our words for it).
recipient_refused = Signal()
