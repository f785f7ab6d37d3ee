"""The usual first solution, a Celery task that calls ``send_mail``, and a task that does nothing."""

from .celery import app

__all__ = ["app"]
