"""``manage.py erase_recipient``: erase what is known of a person."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from email_integration.delivery.erasure import erase_recipient
from email_integration.exceptions import InvalidMail


class Command(BaseCommand):
    """Erase a mail address from all deliveries, what servers said of it, and the contents that went there."""

    help = (
        "Erase a mail address from all deliveries and attempts, with the contents of the mails. Nothing that is on its "
        "way is sent there any more. Exits with 1 if something has to be left until another run."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the address and --dry-run."""
        parser.add_argument("address", metavar="ADDRESS", help="the mail address of the person, in any spelling")
        parser.add_argument("--dry-run", action="store_true", help="erase nothing, say what would be erased")

    def handle(self, *args: Any, **options: Any) -> None:
        """Say how many of each; exit with 1 when something is left."""
        try:
            done = erase_recipient(options["address"], dry_run=options["dry_run"])
        except InvalidMail as error:
            raise CommandError(str(error)) from None
        self.stdout.write("Would be erased:" if options["dry_run"] else "Erased:")
        for number, what in (
            (done.deliveries, "deliveries that named the person"),
            (done.stopped, "mails on their way to the person, stopped"),
            (done.contents, "contents"),
            (done.replies, "replies of servers"),
        ):
            self.stdout.write(f"  {number} {what}")
        for delivery_id in done.left:
            self.stdout.write(
                f"✗ {delivery_id} still names the person: it is being sent, or on its way in the person's name. "
                "Run this again when it is finished."
            )
        if done.left:
            sys.exit(1)
