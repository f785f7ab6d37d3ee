"""The Celery app, for ``celery -A config``."""

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
    """Stop Celery from configuring logging: LOGGING and LOG_LEVEL apply to workers and beat too."""
    from django.conf import settings

    logging.config.dictConfig(settings.LOGGING)
    if settings.LOG_FORMAT == "json":
        log_what_is_printed()


#: Seconds after a check for which a connection is assumed to be alive.
_ALIVE = 1.0
_checked = threading.local()


@task_prerun.connect
def check_database_connection(task: Any, **kwargs: Any) -> None:
    """Make the next query check the connection that CELERY_DB_REUSE_MAX keeps open, at most once in _ALIVE seconds.

    Django enables CONN_HEALTH_CHECKS at the start of a request, and a worker has no requests. A task that runs in its
    caller shares the caller's transaction, which the check would break.
    """
    from django.db import close_old_connections

    now = time.monotonic()
    if not task.request.is_eager and now - getattr(_checked, "at", -_ALIVE) >= _ALIVE:
        _checked.at = now
        close_old_connections()


@celeryd_after_setup.connect
def omit_banner(instance: Any, **kwargs: Any) -> None:
    """Omit the banner if machines read the log. Beat prints its own before this: its commands use ``--quiet``."""
    from django.conf import settings

    if settings.LOG_FORMAT == "json":
        instance.quiet = True


@celeryd_after_setup.connect
def close_what_greenlets_keep_open(instance: Any, **kwargs: Any) -> None:
    """Under gevent, close the connection after each task, because each task has its own greenlet and connection.

    CELERY_DB_REUSE_MAX would keep them open until the garbage collector closes them, dozens at a time.
    """
    if "gevent" not in instance.pool_cls.__module__:
        return

    def close(task: Any, **kwargs: Any) -> None:
        if not task.request.is_eager:
            connections.close_all()

    task_postrun.connect(close, weak=False)


@celeryd_after_setup.connect
def close_what_threads_keep_open(instance: Any, **kwargs: Any) -> None:
    """With ``-P threads``, close at shutdown the connections that CELERY_DB_REUSE_MAX keeps open in each thread.

    The threads end without closing them.
    """
    if "thread" not in instance.pool_cls.__module__:
        return
    opened: set[Any] = set()

    def remember(connection: Any, **kwargs: Any) -> None:
        opened.add(connection)

    def close(**kwargs: Any) -> None:
        for connection in opened:
            connection.inc_thread_sharing()  # its thread has ended
            connection.close()

    connection_created.connect(remember, weak=False)
    worker_shutdown.connect(close, weak=False)
