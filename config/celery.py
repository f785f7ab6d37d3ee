"""The Celery app, found by ``celery -A config``."""

from __future__ import annotations

import logging.config
import os
import threading
import time
from typing import Any

from celery import Celery
from celery.signals import celeryd_after_setup, setup_logging, task_postrun, task_prerun, worker_shutdown
from django.db import connections
from django.db.backends.signals import connection_created

from config.logs import log_what_is_printed

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("config")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@setup_logging.connect
def log_as_django_does(**kwargs: Any) -> None:
    """Keep Celery from configuring logging by itself: LOGGING and LOG_LEVEL hold for workers and beat too."""
    from django.conf import settings

    logging.config.dictConfig(settings.LOGGING)
    if settings.LOG_FORMAT == "json":
        log_what_is_printed()


#: Seconds for which a connection is taken to be alive after it was checked.
_ALIVE = 1.0
_checked = threading.local()


@task_prerun.connect
def check_database_connection(task: Any, **kwargs: Any) -> None:
    """Have the next query check the connection that CELERY_DB_REUSE_MAX kept open, once in a while.

    Django arms CONN_HEALTH_CHECKS at the start of a request, which a worker never sees. A task that runs in its caller
    is in the caller's transaction, which this would break.
    """
    from django.db import close_old_connections

    now = time.monotonic()
    if not task.request.is_eager and now - getattr(_checked, "at", -_ALIVE) >= _ALIVE:
        _checked.at = now
        close_old_connections()


@celeryd_after_setup.connect
def greet_nobody(instance: Any, **kwargs: Any) -> None:
    """Leave the banner out where machines read the log. Beat prints its own too early: its commands say ``--quiet``."""
    from django.conf import settings

    if settings.LOG_FORMAT == "json":
        instance.quiet = True


@celeryd_after_setup.connect
def close_what_greenlets_keep_open(instance: Any, **kwargs: Any) -> None:
    """Close the connection after each task under gevent, where each task has a greenlet, and a connection, of its own.

    Those that CELERY_DB_REUSE_MAX keeps open would be left to the garbage collector, dozens at a time.
    """
    if "gevent" not in instance.pool_cls.__module__:
        return

    def close(task: Any, **kwargs: Any) -> None:
        if not task.request.is_eager:
            connections.close_all()

    task_postrun.connect(close, weak=False)


@celeryd_after_setup.connect
def close_what_threads_keep_open(instance: Any, **kwargs: Any) -> None:
    """With ``-P threads`` each thread keeps a connection by CELERY_DB_REUSE_MAX, and ends without closing it."""
    if "thread" not in instance.pool_cls.__module__:
        return
    opened: set[Any] = set()

    def remember(connection: Any, **kwargs: Any) -> None:
        opened.add(connection)

    def close(**kwargs: Any) -> None:
        for connection in opened:
            connection.inc_thread_sharing()  # its thread is gone
            connection.close()

    connection_created.connect(remember, weak=False)
    worker_shutdown.connect(close, weak=False)
