"""The common part of the small projects: the same services, the same mail."""

from __future__ import annotations

import os

from django.core.mail import EmailMessage

SECRET_KEY = "only for the benchmark"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth"]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": os.environ["BENCH_POSTGRESQL"],
        "NAME": os.environ["BENCH_DATABASE"],
        "USER": "postgres",
    }
}
CELERY_BROKER_URL = os.environ["BENCH_BROKER"]
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
if os.environ.get("BENCH_VISIBILITY"):
    # Seconds, instead of an hour, after which the messages of a lost worker go to another worker.
    CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": int(os.environ["BENCH_VISIBILITY"])}
if os.environ.get("BENCH_LATE"):
    CELERY_TASK_ACKS_LATE = CELERY_TASK_REJECT_ON_WORKER_LOST = True

EMAIL_HOST = "127.0.0.1"
EMAIL_PORT = int(os.environ["BENCH_SMTP_PORT"])
EMAIL_USE_TLS = os.environ["BENCH_SMTP_TLS"] == "starttls"
EMAIL_USE_SSL = os.environ["BENCH_SMTP_TLS"] == "tls"
EMAIL_HOST_USER = os.environ["BENCH_SMTP_USER"]
EMAIL_HOST_PASSWORD = os.environ["BENCH_SMTP_PASSWORD"]
EMAIL_TIMEOUT = 30

#: About 2 kB with its headers.
BODY = "A line of the text, as long as the lines of a mail are: 72 characters.\n" * 22


def mail(number: int) -> dict:
    """Return the arguments of a mail."""
    return {
        "subject": f"Mail {number}",
        "body": BODY,
        "from_email": "Bench <bench@example.com>",
        "to": [f"user{number}@example.com"],
    }


def message(number: int) -> EmailMessage:
    """Return the same mail as a message."""
    return EmailMessage(**mail(number))
