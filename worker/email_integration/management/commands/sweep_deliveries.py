"""``manage.py sweep_deliveries``: the sweep that beat runs every few seconds, for cron."""

from __future__ import annotations

from typing import Any

from email_integration.management.printing import PrintingCommand
from email_integration.queue.sweeper import sweep


class Command(PrintingCommand):
    """Wake the workers of every queue that has due mail which no worker is sending."""

    help = "Wake the workers of every queue that has due mail which no worker is sending."

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(f"Queues woken: {sweep()}.")
