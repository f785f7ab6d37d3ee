"""For the test suites of projects that use this app: submitted mail, a relay with faults, and immediate sending.

It needs no worker, no broker, no SMTP server and no test framework. Functions that send mail start a ``FakeRelay``,
which needs the extra ``testing``. See docs/testing.md.
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
