"""``manage.py sweep_deliveries``: what beat does every few seconds, for cron."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from email_integration.queue.sweeper import sweep


class Command(BaseCommand):
    """Ring for every delivery that is due and that nothing is working on."""

    help = "Ring for every delivery that is due and that nothing is working on."

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(f"Deliveries rung for: {sweep()}.")
