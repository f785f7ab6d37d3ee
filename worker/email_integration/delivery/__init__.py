"""What becomes of one mail: rendered, submitted, attempted, settled. Here is what applications may call."""

from .decide import cancel, discard, release, resend, send_now
from .erase import erase_recipient
from .submit import submit

__all__ = ["cancel", "discard", "erase_recipient", "release", "resend", "send_now", "submit"]
