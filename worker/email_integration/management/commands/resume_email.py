"""``manage.py resume_email``: resume sending."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError

from email_integration import conf
from email_integration.management.printing import PrintingCommand
from email_integration.models import SendingPause
from email_integration.queue import retry_now


class Command(PrintingCommand):
    """End the pause; all held mail is due immediately."""

    help = (
        "Resume sending after `manage.py pause_email`: mail that waited is due at once, and is sent after the next "
        "sweep."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        """Resume, and print how much mail was held."""
        waiting = retry_now.waiting()
        ended = SendingPause.end()
        if conf.get("EMAIL_PAUSED"):
            raise CommandError(
                "✗ EMAIL_PAUSED is set, so no mail is sent. Unset it in the settings or the environment, and restart "
                "all processes. Then run this command again to try at once all mail that waited."
            )
        # Needed even if there is no pause to end: after EMAIL_PAUSED is removed, no other code wakes the held mail.
        retry_now.wake()
        said = "Sending is resumed" if ended else "Sending was not paused"
        self.stdout.write(f"{said}. Deliveries that waited and are due now: {waiting}.")
