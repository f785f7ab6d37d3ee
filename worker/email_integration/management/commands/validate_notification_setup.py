"""``manage.py validate_notification_setup``: check whether the set-up can send mail."""

from __future__ import annotations

import json
import sys
from typing import Any

from django.core.management.base import CommandParser

from email_integration import diagnosis
from email_integration.management.printing import PrintingCommand


class Command(PrintingCommand):
    """Diagnose the set-up from the SMTP configuration to the workers; exit with 1 if mail cannot be sent."""

    help = (
        "Check all parts that send mail: the SMTP configuration in force, its server, cache, broker, workers, beat. "
        "Exits with code 1 if a problem prevents sending."
    )
    # The command's findings include those of the system checks, and more.
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the optional address of the test mail, and the output format."""
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
            help="the time that workers have to answer (default: 1)",
        )
        parser.add_argument("--json", action="store_true", help="print the findings as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print the findings; exit with 1 if there is any ✗."""
        sections = diagnosis.diagnose(test_email=options["test_email"], patience=options["timeout"])
        if options["json"]:
            self.stdout.write(json.dumps(diagnosis.as_data(sections), indent=2, ensure_ascii=False))
        else:
            self.stdout.write(diagnosis.as_text(sections))
        if diagnosis.has_errors(sections):
            sys.exit(1)
