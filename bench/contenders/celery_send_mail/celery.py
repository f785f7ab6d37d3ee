"""The Celery app."""

import os

from celery import Celery
from celery.signals import task_prerun

app = Celery("celery_send_mail")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["celery_send_mail"])

if os.environ.get("BENCH_TUNED"):

    @task_prerun.connect
    def check_database_connection(**kwargs):
        """Check the connection as often as config/celery.py does."""
        from django.db import close_old_connections

        close_old_connections()
