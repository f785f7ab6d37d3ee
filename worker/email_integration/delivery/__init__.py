"""What becomes of one mail: rendered, submitted, attempted, settled. Here is what applications may call."""

from .decide import cancel, discard, release, resend, send_now
from .submit import submit

__all__ = ["cancel", "discard", "release", "resend", "send_now", "submit"]
