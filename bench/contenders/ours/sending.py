"""``send_email.delay()``."""

from __future__ import annotations

import os
import time

from common import mail
from django.db import transaction
from email_integration import routing
from email_integration.models import SMTPConfig
from email_integration.tasks import send_email


def prepare() -> None:
    """Make the configuration that is active."""
    tls = os.environ["BENCH_SMTP_TLS"]
    SMTPConfig.objects.update_or_create(
        name="Sink",
        defaults={
            "host": "127.0.0.1",
            "port": int(os.environ["BENCH_SMTP_PORT"]),
            "username": os.environ["BENCH_SMTP_USER"],
            "password": os.environ["BENCH_SMTP_PASSWORD"],
            "use_tls": tls == "starttls",
            "use_ssl": tls == "tls",
            "from_email": "Bench <bench@example.com>",
            "is_active": True,
        },
    )


def submit(number: int) -> None:
    send_email.delay(**mail(number))


def submit_together(numbers: range) -> None:
    with transaction.atomic():
        for number in numbers:
            send_email.delay(**mail(number))
