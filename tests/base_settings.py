"""``config.settings``; with TEST_USE_TZ=false like a project without USE_TZ, in a time zone that is not UTC."""

import os

from config.settings import *  # noqa: F403 - all settings are needed

if os.environ.get("TEST_USE_TZ") == "false":
    USE_TZ = False
    TIME_ZONE = "Asia/Kathmandu"

# The journals of the tests' workers are below /tmp, which is in memory on some machines.
SILENCED_SYSTEM_CHECKS = [*SILENCED_SYSTEM_CHECKS, "email_integration.W028"]  # noqa: F405
