"""An SMTP server on loopback, for tests and for trying things out: it keeps what it gets, and fails as it is told to.

Built on aiosmtpd, the extra ``testing``, which is imported when a server starts. Knows neither Django nor Celery.
"""

from .faults import Fault, Faults, Verb
from .records import Message
from .server import SMTPServer
from .state import Security

__all__ = ["Fault", "Faults", "Message", "SMTPServer", "Security", "Verb"]
