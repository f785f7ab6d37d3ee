"""``config.settings`` for the workers of the fault matrix: they can be made to die."""

import os

from tests.base_settings import *  # noqa: F403 - all of them, that is the point

CELERY_INCLUDE = ["tests.faults.crash"]
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = float(os.environ.get("FAULTS_SOFT_SHUTDOWN", "0"))
