"""What everybody writes first: a Celery task that calls ``send_mail``; and one that does nothing."""

from .celery import app

__all__ = ["app"]
