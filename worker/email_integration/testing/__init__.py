"""For the test suites of projects that use this app: what was submitted, a relay that fails as told, sending at once.

Needs no worker, no broker, no SMTP server and no test framework. What sends mail starts a ``FakeRelay``, and that needs
the extra ``testing``. See docs/testing.md.
"""

from .capture import Outbox, capture_mail, outbox
from .mails import ParsedMail, ReceivedMail, SubmittedMail
from .relay import FakeRelay
from .running import eager_mail, run_deliveries

__all__ = [
    "FakeRelay",
    "Outbox",
    "ParsedMail",
    "ReceivedMail",
    "SubmittedMail",
    "capture_mail",
    "eager_mail",
    "outbox",
    "run_deliveries",
]
