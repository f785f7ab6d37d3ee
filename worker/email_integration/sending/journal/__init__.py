"""The journal: what a sending process has in hand, in a file that outlives its ``kill -9``.

Each sending process has a file of its own, locked while it lives, with a slot for each mail in hand. A process that
dies leaves the file behind with its lock free. Another process of the machine then reads how far each mail was:

========== ======================================================= =============================================
state      written                                                 after the death of the process
========== ======================================================= =============================================
IN_HAND    before the content is read, and when the phase changes  no dot was sent: the mail goes back
DOT        directly before the final dot                           in doubt (RFC 1047), for these recipients
ANSWERED   directly after the reply to the dot                     the reply is recorded
CONTINUING after the commit of the record                          what follows the mail is published once more
========== ======================================================= =============================================

Nothing is synced to the disk: the kernel keeps what a killed process has written, and after a power cut the boot id
tells that the file proves nothing. It holds ids, versions, codes and a bit for each recipient, no address and no text.
"""

from .files import JournalUnavailable
from .layout import MOST_RECIPIENTS, Dot, JournalEntry, SlotPhase, SlotState
from .reading import AbandonedJournal, abandoned
from .writing import Journal, Slot

__all__ = [
    "MOST_RECIPIENTS",
    "AbandonedJournal",
    "Dot",
    "Journal",
    "JournalEntry",
    "JournalUnavailable",
    "Slot",
    "SlotPhase",
    "SlotState",
    "abandoned",
]
