"""``config.settings`` for workers that know the tests' own tasks and may keep results in another backend."""

import os

from tests.base_settings import *  # noqa: F403 - every setting is wanted

CELERY_INCLUDE = ["tests.acceptance.tasks", *os.environ.get("ACCEPTANCE_INCLUDE", "").split()]
CELERY_WORKER_MAX_TASKS_PER_CHILD = int(os.environ.get("ACCEPTANCE_MAX_TASKS", "0")) or None
CELERY_RESULT_BACKEND = os.environ.get("ACCEPTANCE_RESULTS", "django-db")
CELERY_WORKER_SEND_TASK_EVENTS = bool(os.environ.get("ACCEPTANCE_EVENTS"))
