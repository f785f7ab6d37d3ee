"""The application: a process that submits mails, by commands on standard input, one JSON object per line."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import Any

import django
from django.core.management import call_command
from django.db import connections


def main() -> None:
    """Set up the database, then execute each line and answer with a line."""
    django.setup()
    call_command("migrate", verbosity=0, interactive=False)
    print(json.dumps({"ready": True}), flush=True)
    actions = {"activate": activate, "submit": submit, "wake": wake}
    for line in sys.stdin:
        command = json.loads(line)
        connections.close_all()  # the database may have been restarted
        print(json.dumps(actions[command.pop("do")](**command)), flush=True)


def activate(**fields: Any) -> dict[str, Any]:
    """Create an active SMTP configuration."""
    from email_integration.models import SMTPConfig

    return {"id": SMTPConfig.objects.create(is_active=True, **fields).pk}


def submit(*, mails: int, size: int, atomic: bool, bulk: bool, followed_by: str, pause: float) -> dict[str, Any]:
    """Submit ``mails`` mails of ``size`` octets, in one transaction if ``atomic``, ``pause`` seconds apart.

    Only mails that were stored count as submitted. With ``bulk``, they are submitted by ``submit_many``.
    """
    if bulk:
        return _submit_many(mails, size)
    from django.db import DatabaseError, InterfaceError, close_old_connections, transaction

    from email_integration.tasks import send_email
    from tests.faults.following import follow

    line = "A line of text that is a mail's.\n"
    body = line * max(1, size // len(line))
    ids: list[str] = []
    refused = 0
    started = time.monotonic()
    with transaction.atomic() if atomic else contextlib.nullcontext():
        for number in range(mails):
            link = follow(send_email.app, followed_by) if followed_by else None
            try:
                result = send_email.apply_async((f"Mail {number}", body, None, ["kim@example.com"]), link=link)
            except (DatabaseError, InterfaceError):
                if atomic:
                    raise
                refused += 1
                close_old_connections()
            else:
                ids.append(result.id)
            time.sleep(pause)
    return {"ids": ids, "refused": refused, "seconds": time.monotonic() - started}


def _submit_many(mails: int, size: int) -> dict[str, Any]:
    from django.core.mail import EmailMessage

    from email_integration import submit_many

    started = time.monotonic()
    body = "Bulk.\n" * max(1, size // 6)
    ids = submit_many(EmailMessage(f"Mail {number}", body, None, ["kim@example.com"]) for number in range(mails))
    return {"ids": ids, "refused": 0, "seconds": time.monotonic() - started}


def wake(*, times: int) -> dict[str, Any]:
    """Wake workers ``times`` times, like a broker that delivers messages several times, or late."""
    from email_integration import conf
    from email_integration.tasks import dispatch

    for _ in range(times):
        dispatch.apply_async((conf.get("QUEUE"),), queue=conf.get("QUEUE"))
    return {}


if __name__ == "__main__":
    main()
