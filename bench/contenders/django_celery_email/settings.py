"""As its readme says; ``BENCH_CHUNK`` is the number of mails in a task."""

import os

from common import *  # noqa: F403

INSTALLED_APPS = [*INSTALLED_APPS, "djcelery_email"]  # noqa: F405
EMAIL_BACKEND = "djcelery_email.backends.CeleryEmailBackend"
CELERY_EMAIL_CHUNK_SIZE = int(os.environ.get("BENCH_CHUNK", "10"))
