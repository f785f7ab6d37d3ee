"""``config.settings`` for the workers of the fault matrix: they can be killed at a point, and be another host."""

import os
import socket

from tests.base_settings import *  # noqa: F403 - all settings are needed

CELERY_INCLUDE = ["tests.faults.crash"]
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = float(os.environ.get("FAULTS_SOFT_SHUTDOWN", "0"))

#: The file with the plan for ``tests.faults.crash``, or '' for no plan.
FAULTS_PLAN = os.environ.get("FAULTS_PLAN", "")

if host := os.environ.get("FAULTS_HOST"):
    socket.gethostname = lambda: host
