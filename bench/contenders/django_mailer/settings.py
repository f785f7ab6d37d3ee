"""As its readme says."""

from common import *  # noqa: F403

INSTALLED_APPS = [*INSTALLED_APPS, "mailer"]  # noqa: F405
EMAIL_BACKEND = "mailer.backend.DbBackend"
MAILER_EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
