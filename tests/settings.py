"""``config.settings`` with nothing taken from this machine: for the tests and for mypy's Django plugin.

What a test sets in the environment before Django is set up still wins.
"""

import os
import tempfile

os.environ.setdefault("ENV_FILE", "")
os.environ.setdefault("DEBUG", "true")
os.environ.setdefault("SECRET_KEY", "only for tests")
os.environ.setdefault("SMTP_PASSWORD_KEYS", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
os.environ.setdefault("VAR_DIR", os.path.join(tempfile.gettempdir(), f"celery-mail-dispatch-tests-{os.getuid()}"))

from tests.base_settings import *  # noqa: F403 - all of them, that is the point

# Whoever has asked the workers waits at the end for the broker's last empty answer: by kombu's default, a second.
CELERY_BROKER_TRANSPORT_OPTIONS = {
    **CELERY_BROKER_TRANSPORT_OPTIONS,  # noqa: F405
    "polling_interval": 0.05,
}
