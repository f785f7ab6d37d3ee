"""``manage.py erase_recipient``: erase the stored data about a recipient."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser

from email_integration.delivery.erasure import erase_recipient
from email_integration.exceptions import InvalidMail
from email_integration.management.printing import PrintingCommand


class Command(PrintingCommand):
    """Erase a mail address from all deliveries, with the servers' replies about it and the contents sent to it."""

    help = (
        "Erase a mail address from all deliveries and attempts, with the contents of the mails. Mails that have not "
        "been sent yet are no longer sent to the address. Exits with code 1 if another run has to erase the rest."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the address and --dry-run."""
        parser.add_argument("address", metavar="ADDRESS", help="the mail address of the person, in any spelling")
        parser.add_argument("--dry-run", action="store_true", help="only show what would be erased")

    def handle(self, *args: Any, **options: Any) -> None:
        """Erase, and print the numbers; exit with 1 if some data is left."""
        try:
            done = erase_recipient(options["address"], dry_run=options["dry_run"])
        except InvalidMail as error:
            raise CommandError(str(error)) from None
        self.stdout.write("Would be erased:" if options["dry_run"] else "Erased:")
        for number, what in (
            (done.deliveries, "deliveries that named the person"),
            (done.stopped, "unsent mails to the person, stopped"),
            (done.contents, "contents"),
            (done.replies, "replies of servers"),
        ):
            self.stdout.write(f"  {number} {what}")
        for delivery_id in done.left:
            self.stdout.write(
                f"✗ {delivery_id} still names the person: it is being sent, or still waits to be sent to other "
                "recipients. Run this command again when it is finished."
            )
        if done.left:
            sys.exit(1)
