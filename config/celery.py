"""The Celery app, found by ``celery -A config``."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.signals import task_prerun

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("config")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@task_prerun.connect
def check_database_connection(**kwargs: Any) -> None:
    """Have the next query check the connection that CELERY_DB_REUSE_MAX kept open.

    Django arms CONN_HEALTH_CHECKS at the start of a request, which a worker never sees.
    """
    from django.db import close_old_connections

    close_old_connections()
