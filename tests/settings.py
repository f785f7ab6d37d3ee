"""``config.settings`` without the settings of this machine: for the tests and for mypy's Django plugin.

Variables that a test sets before Django's setup still take precedence.
"""

import os
import tempfile

os.environ.setdefault("ENV_FILE", "")
os.environ.setdefault("DEBUG", "true")
os.environ.setdefault("SECRET_KEY", "only for tests")
os.environ.setdefault("SMTP_PASSWORD_KEYS", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
os.environ.setdefault("VAR_DIR", os.path.join(tempfile.gettempdir(), f"celery-mail-dispatch-tests-{os.getuid()}"))

from tests.base_settings import *  # noqa: F403 - all settings are needed

# A process that has asked the workers waits at the end for the broker's last empty answer: by kombu's default, a
# second.
CELERY_BROKER_TRANSPORT_OPTIONS = {
    **CELERY_BROKER_TRANSPORT_OPTIONS,  # noqa: F405
    "polling_interval": 0.05,
}
