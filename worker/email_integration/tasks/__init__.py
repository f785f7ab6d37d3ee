"""The Celery door: what applications call, and what workers run."""

from .mail import deliver, deliver_group, repeated, send_email, send_prepared, sweep

__all__ = ["deliver", "deliver_group", "repeated", "send_email", "send_prepared", "sweep"]
