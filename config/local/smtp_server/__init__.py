"""A real SMTP server on loopback that keeps what it gets, and fails in the ways it is told to.

The tests run it in a thread, as ``SMTPServer``; the demo and the playground run it as a process:

    python -m config.local.smtp_server --port 2525 --maildir var/mail --plain --catch-all-any-auth
"""

from .faults import Fault, Verb
from .maildir import read_maildir
from .records import Message
from .server import SMTPServer
from .state import Security

__all__ = ["Fault", "Message", "SMTPServer", "Security", "Verb", "read_maildir"]
