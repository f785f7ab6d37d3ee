"""``manage.py sweep_deliveries``: what beat does every few seconds, for cron."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from email_integration.queue.sweeper import sweep


class Command(BaseCommand):
    """Wake the workers of every queue that has mail due which nothing is working on."""

    help = "Wake the workers of every queue that has mail due which nothing is working on."

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(f"Queues woken: {sweep()}.")
