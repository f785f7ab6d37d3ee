"""Actions on deliveries for applications and people. These functions are public."""

from email_integration.queue.submission import submit

from .erasure import erase_recipient
from .manual import cancel, discard, release, resend, send_now

__all__ = ["cancel", "discard", "erase_recipient", "release", "resend", "send_now", "submit"]
