"""What applications and people may do with deliveries. These functions are the public ones."""

from email_integration.queue.submission import submit

from .erasure import erase_recipient
from .manual import cancel, discard, release, resend, send_now

__all__ = ["cancel", "discard", "erase_recipient", "release", "resend", "send_now", "submit"]
