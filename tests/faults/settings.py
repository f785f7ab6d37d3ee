"""``config.settings`` for the workers of the fault matrix: they can be made to die, and to be of another host."""

import os
import socket

from tests.base_settings import *  # noqa: F403 - all of them, that is the point

CELERY_INCLUDE = ["tests.faults.crash"]
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = float(os.environ.get("FAULTS_SOFT_SHUTDOWN", "0"))

#: The file with the plan of a death, for ``tests.faults.crash``; '' for no plan.
FAULTS_PLAN = os.environ.get("FAULTS_PLAN", "")

if host := os.environ.get("FAULTS_HOST"):
    socket.gethostname = lambda: host
