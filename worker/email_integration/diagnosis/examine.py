"""The whole examination, in the order in which it is read."""

from __future__ import annotations

from email_integration.exceptions import InvalidMail
from email_integration.smtp import Relay

from . import server
from .blockers import blockers
from .configuration import configuration, diagnose_alerts, passwords, somebody
from .database import database
from .findings import Finding, Section, error
from .project import project_settings
from .storage import storage
from .workers import cache, celery


def examine(*, test_email: str | None = None, patience: float = 1.0) -> list[Section]:
    """Examine the set-up; with ``test_email`` also send a mail there, directly and not through the queue.

    An empty ``test_email`` means the first of ADMINS, else the first superuser with an address. Workers have
    ``patience`` seconds to answer.
    """
    found, relay = configuration()
    parts: list[Section] = []
    details: list[Finding] = []
    if relay is not None:
        tested, details = _test(relay, test_email)
        parts.append(Section(title="Testing SMTP connection", findings=tuple(tested)))
    return [
        Section(title="Checking Email/SMTP Configuration", findings=tuple(found), parts=tuple(parts)),
        Section(title="Checking SMTP server and sender", findings=(*passwords(), *details, server.fallback())),
        Section(title="Checking settings", findings=(*project_settings(), *diagnose_alerts())),
        Section(
            title="Checking database, cache and storage",
            findings=(*database(), cache(), *storage(patience=patience)),
        ),
        Section(title="Checking broker, workers and beat", findings=tuple(celery(patience=patience))),
        Section(title="Checking what holds mail back", findings=tuple(blockers())),
    ]


def _test(relay: Relay, test_email: str | None) -> tuple[list[Finding], list[Finding]]:
    to = somebody() if test_email == "" else test_email
    try:
        report, line = server.try_out(relay, to=to)
    except InvalidMail as invalid:
        return [error("smtp.test_email", f"No test email was sent: {invalid}".rstrip("."), "Correct the address.")], []
    lines = [line]
    if test_email == "" and to is None:
        lines.append(
            error(
                "smtp.test_email",
                "There is nobody to write to: ADMINS is empty and no superuser has an address",
                "Name one: --test-email you@example.com",
            )
        )
    return lines, server.details(report)
