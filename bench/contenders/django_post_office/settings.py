"""As its readme says."""

import os
from pathlib import Path

from common import *  # noqa: F403

INSTALLED_APPS = [*INSTALLED_APPS, "post_office"]  # noqa: F405
EMAIL_BACKEND = "post_office.EmailBackend"
POST_OFFICE = {"BACKENDS": {"default": "django.core.mail.backends.smtp.EmailBackend"}}
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
if os.environ.get("BENCH_THREADS"):
    POST_OFFICE["THREADS_PER_PROCESS"] = int(os.environ["BENCH_THREADS"])
MEDIA_ROOT = Path(os.environ["BENCH_MARKS"]).with_name("media")
