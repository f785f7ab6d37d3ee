"""Celery: the tasks that applications call and workers run, and what workers and beat do by themselves."""

from . import hooks, task_events  # noqa: F401  # its schedule has to be there before anybody touches a task
from .mail import dispatch, repeated, send_email, send_prepared, sweep

__all__ = ["dispatch", "repeated", "send_email", "send_prepared", "sweep"]
