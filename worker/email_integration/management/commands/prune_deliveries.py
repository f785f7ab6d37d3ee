"""``manage.py prune_deliveries``: the daily task of beat, for cron."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from email_integration.delivery.retention import prune
from email_integration.management.printing import PrintingCommand


class Command(PrintingCommand):
    """Delete finished deliveries and contents after their retention time, their results, and orphaned files."""

    help = (
        "Delete finished deliveries, with their results, after RETENTION_DAYS, contents of accepted mail after "
        "CONTENT_RETENTION_DAYS, and files that no delivery names."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add --dry-run."""
        parser.add_argument("--dry-run", action="store_true", help="only show what would be deleted")

    def handle(self, *args: Any, **options: Any) -> None:
        """Delete, and print the numbers."""
        done = prune(dry_run=options["dry_run"])
        self.stdout.write("Would be deleted:" if options["dry_run"] else "Deleted:")
        for number, what in (
            (done.deliveries, "finished deliveries"),
            (done.contents, "contents of accepted mail"),
            (done.results, "results"),
            (done.orphans, "files that no delivery names"),
            (done.breakers, "old circuit breakers"),
        ):
            self.stdout.write(f"  {number} {what}")
