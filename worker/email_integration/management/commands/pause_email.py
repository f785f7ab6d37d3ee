"""``manage.py pause_email``: keep accepting mail, but send none."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from email_integration import conf
from email_integration.management.printing import PrintingCommand
from email_integration.models import SendingPause
from email_integration.timezones import local_time


class Command(PrintingCommand):
    """Pause all sending, in every process immediately, until ``resume_email``."""

    help = "Pause all sending: mail is accepted and waits until `manage.py resume_email`."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the reason, which is shown to other users."""
        parser.add_argument("--reason", default="", help="the reason, shown in the admin and for each mail that waits")

    def handle(self, *args: Any, **options: Any) -> None:
        """Pause, or print that sending is already paused."""
        if SendingPause.begin(reason=options["reason"]):
            self.stdout.write("Sending is paused: mail is accepted and waits. `manage.py resume_email` ends the pause.")
        else:
            pause = SendingPause.objects.get()
            reason = f" ({pause.reason})" if pause.reason else ""
            self.stdout.write(
                f"Sending is already paused, since {local_time(pause.since):%Y-%m-%d %H:%M:%S %Z}{reason}."
            )
        if conf.get("EMAIL_PAUSED"):
            self.stdout.write(
                "EMAIL_PAUSED is set too: sending stays paused until you unset it and restart all processes."
            )
