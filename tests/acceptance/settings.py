"""``config.settings`` for workers that know the tests' own tasks."""

from config.settings import *  # noqa: F403 - all of them, that is the point

CELERY_INCLUDE = ["tests.acceptance.tasks"]
