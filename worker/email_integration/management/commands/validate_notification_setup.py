"""``manage.py validate_notification_setup``: is everything in place for mail to leave?"""

from __future__ import annotations

import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from email_integration import diagnosis


class Command(BaseCommand):
    """Diagnose the set-up from the SMTP configuration to the workers; exit with 1 if mail cannot leave."""

    help = (
        "Check all that mail needs: the SMTP configuration in force, its server, cache, broker, workers, beat. "
        "Exits with 1 if anything stands in the way of mail."
    )
    # Its findings are more than what system checks can say, and come with them.
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the optional address of the test mail, and the form of the answer."""
        parser.add_argument(
            "--test-email",
            nargs="?",
            const="",
            default=None,
            metavar="ADDRESS",
            help="send a test mail to ADDRESS, directly and not through the queue; without ADDRESS to the first of "
            "ADMINS, or else to the first superuser",
        )
        parser.add_argument(
            "--timeout",
            type=float,
            default=1.0,
            metavar="SECONDS",
            help="how long workers may take to answer (default: 1)",
        )
        parser.add_argument("--json", action="store_true", help="answer in JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print what was found; exit with 1 on any ✗."""
        sections = diagnosis.diagnose(test_email=options["test_email"], patience=options["timeout"])
        if options["json"]:
            self.stdout.write(json.dumps(diagnosis.as_data(sections), indent=2, ensure_ascii=False))
        else:
            self.stdout.write(diagnosis.as_text(sections))
        if diagnosis.has_errors(sections):
            sys.exit(1)
