"""The journal: the mails that a process is sending, in a file that survives the process's ``kill -9``.

Each sending process has one file, locked while the process lives, with a slot for each mail in progress. A process that
dies leaves the file behind unlocked. Another process on the machine then reads how far each mail was:

========== ======================================================= =============================================
state      written                                                 after the death of the process
========== ======================================================= =============================================
IN_HAND    before the content is read, and when the phase changes  no dot was sent: the mail goes back
DOT        directly before the final dot                           in doubt (RFC 1047), for these recipients
ANSWERED   directly after the reply to the dot                     the reply is recorded
CONTINUING after the commit of the record                          its continuation is published again
========== ======================================================= =============================================

The file is not synced to the disk. The kernel keeps the data of a killed process. After a power failure, the boot id
shows that the file proves nothing. The file contains ids, versions, codes and a bit for each recipient, but no address
and no text.
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
