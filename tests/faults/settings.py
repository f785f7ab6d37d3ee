"""``config.settings`` for the workers of the fault matrix: they know an application's task, and can be made to die."""

from config.settings import *  # noqa: F403 - all of them, that is the point

CELERY_INCLUDE = ["tests.faults.following", "tests.faults.crash"]
