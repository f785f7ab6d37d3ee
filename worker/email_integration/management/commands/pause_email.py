"""``manage.py pause_email``: take mail and send none."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from email_integration import conf
from email_integration.models import SendingPause
from email_integration.timezones import local_time


class Command(BaseCommand):
    """Pause all sending, in every process at once, until ``resume_email``."""

    help = "Pause all sending: mail is taken and waits until `manage.py resume_email`."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the reason, for whoever wonders."""
        parser.add_argument("--reason", default="", help="shown in the admin and wherever mail says why it waits")

    def handle(self, *args: Any, **options: Any) -> None:
        """Say whether it was paused already."""
        if SendingPause.begin(reason=options["reason"]):
            self.stdout.write("Sending is paused: mail is taken and waits. `manage.py resume_email` ends it.")
        else:
            pause = SendingPause.objects.get()
            reason = f" ({pause.reason})" if pause.reason else ""
            self.stdout.write(f"Sending is paused already, since {local_time(pause.since):%Y-%m-%d %H:%M}{reason}.")
        if conf.get("EMAIL_PAUSED"):
            self.stdout.write("EMAIL_PAUSED is set too; it holds until it is unset and all processes are restarted.")
