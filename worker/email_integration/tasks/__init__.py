"""Celery: the tasks that applications call and workers run, and the automatic work of workers and beat."""

from . import hooks, task_events  # noqa: F401  # its schedule must exist before a task is used
from .mail import dispatch, repeated, send_email, send_prepared, sweep

__all__ = ["dispatch", "repeated", "send_email", "send_prepared", "sweep"]
