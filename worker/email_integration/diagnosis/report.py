"""The whole diagnosis, in reading order."""

from __future__ import annotations

from email_integration.exceptions import InvalidMail
from email_integration.smtp import Relay

from . import server
from .blockers import diagnose_blockers
from .configuration import default_recipient, diagnose_alerts, diagnose_configuration, diagnose_passwords
from .database import diagnose_database
from .findings import Finding, Section, error
from .project import diagnose_settings
from .storage import diagnose_storage
from .workers import diagnose_cache, diagnose_celery


def diagnose(*, test_email: str | None = None, patience: float = 1.0) -> list[Section]:
    """Diagnose the set-up and return the sections.

    Args:
        test_email: if not None, also send a test mail to this address, directly and not through the queue. An empty
            string means the first of ADMINS, else the first superuser with an address.
        patience: seconds that workers have to answer.
    """
    found, relay = diagnose_configuration()
    parts: list[Section] = []
    details: list[Finding] = []
    if relay is not None:
        tested, details = _test(relay, test_email)
        parts.append(Section(title="Testing SMTP connection", findings=tuple(tested)))
    return [
        Section(title="Checking Email/SMTP Configuration", findings=tuple(found), parts=tuple(parts)),
        Section(
            title="Checking SMTP server and sender",
            findings=(*diagnose_passwords(), *details, server.diagnose_fallback()),
        ),
        Section(title="Checking settings", findings=(*diagnose_settings(), *diagnose_alerts())),
        Section(
            title="Checking database, cache and storage",
            findings=(*diagnose_database(), diagnose_cache(), *diagnose_storage(patience=patience)),
        ),
        Section(title="Checking broker, workers and beat", findings=tuple(diagnose_celery(patience=patience))),
        Section(title="Checking pauses, redirects and held mail", findings=tuple(diagnose_blockers())),
    ]


def _test(relay: Relay, test_email: str | None) -> tuple[list[Finding], list[Finding]]:
    to = default_recipient() if test_email == "" else test_email
    try:
        report, line = server.diagnose_server(relay, to=to)
    except InvalidMail as invalid:
        return [error("smtp.test_email", f"No test email was sent: {invalid}".rstrip("."), "Correct the address.")], []
    lines = [line]
    if test_email == "" and to is None:
        lines.append(
            error(
                "smtp.test_email",
                "The test email has no recipient: ADMINS is empty and no superuser has an address",
                "Name a recipient: --test-email you@example.com",
            )
        )
    return lines, server.details(report)
