"""``BENCH_RESULTS``, ``BENCH_TUNED`` and ``BENCH_RETRIES`` select variants."""

import os

from common import *  # noqa: F403

INSTALLED_APPS = [*INSTALLED_APPS, "django_celery_results"]  # noqa: F405
if os.environ.get("BENCH_RESULTS"):
    CELERY_RESULT_BACKEND = "django-db"
if os.environ.get("BENCH_TUNED"):
    CELERY_DB_REUSE_MAX = 500
    DATABASES["default"] |= {"CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True}  # noqa: F405
