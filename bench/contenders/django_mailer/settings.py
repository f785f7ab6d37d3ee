"""As its readme says."""

import os
from pathlib import Path

from common import *  # noqa: F403

INSTALLED_APPS = [*INSTALLED_APPS, "mailer"]  # noqa: F405
EMAIL_BACKEND = "mailer.backend.DbBackend"
MAILER_EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
MAILER_LOCK_PATH = str(Path(os.environ["BENCH_MARKS"]).with_name("send_mail"))
