"""An SMTP server on loopback, for tests and for experiments: it stores mail, and fails on demand.

It uses aiosmtpd, from the extra ``testing``, which is imported when a server starts. It needs neither Django nor
Celery.
"""

from .faults import Fault, Faults, Verb
from .records import Message
from .server import SMTPServer
from .state import Security

__all__ = ["Fault", "Faults", "Message", "SMTPServer", "Security", "Verb"]
