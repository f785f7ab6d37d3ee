"""``manage.py resume_email``: send again."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from email_integration import conf
from email_integration.models import SendingPause
from email_integration.queue import retry_now


class Command(BaseCommand):
    """End the pause; what waited is due at once."""

    help = "Resume sending after `manage.py pause_email`: what waited is due at once, and leaves with the next sweep."

    def handle(self, *args: Any, **options: Any) -> None:
        """Say how much had waited."""
        waiting = retry_now.waiting()
        ended = SendingPause.end()
        if conf.get("EMAIL_PAUSED"):
            raise CommandError(
                "✗ EMAIL_PAUSED is set, so nothing is sent. Unset it in the settings or the environment and restart "
                "all processes; then run this again, so that what waited is tried at once."
            )
        # Also without a pause to end: after EMAIL_PAUSED nobody else has woken what waits.
        retry_now.wake()
        said = "Sending is resumed" if ended else "Sending was not paused"
        self.stdout.write(f"{said}. Deliveries that waited and are due now: {waiting}.")
