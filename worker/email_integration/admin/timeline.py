"""The events of a mail in order, in words."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any

from django.http import HttpRequest
from django.template.defaultfilters import floatformat
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from email_integration.models import DeliveryAttempt
from email_integration.smtp import Phase
from email_integration.timezones import exactly

from .typing import AttemptInline

#: The names of the phases, as on the page of a connection test.
_PHASES: dict[str, Any] = {
    Phase.CONNECT: gettext_lazy("Connect"),
    Phase.GREETING: gettext_lazy("Greeting"),
    Phase.EHLO: gettext_lazy("Capabilities (EHLO)"),
    Phase.STARTTLS: gettext_lazy("Encrypt (TLS)"),
    Phase.AUTH: gettext_lazy("Log in (AUTH)"),
    Phase.MAIL: gettext_lazy("Sender (MAIL)"),
    Phase.RCPT: gettext_lazy("Recipients (RCPT)"),
    Phase.DATA: gettext_lazy("Content (DATA)"),
    Phase.CONTENT: gettext_lazy("Content (DATA)"),
    Phase.FINAL_DOT: gettext_lazy("Final dot"),
}


class Timeline(AttemptInline):
    """The attempts of a mail, between its submission and its end."""

    model = DeliveryAttempt
    template = "email_integration/timeline.html"
    fields = readonly_fields = ("number",)
    can_delete = False
    extra = max_num = 0

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def described_attempts(attempts: Iterable[DeliveryAttempt], *, may_see: bool) -> list[dict[str, Any]]:
    """Return the description of each attempt. Servers' replies are for users who ``may_see`` them."""
    return [
        {
            "number": attempt.number,
            "started_at": attempt.started_at,
            "outcome": attempt.outcome,
            "get_outcome_display": attempt.get_outcome_display(),
            "reason": attempt.reason,
            "said": f"{attempt.code or ''} {attempt.reply}".strip() if may_see and attempt.reply else "",
            "details": list(_details(attempt)),
        }
        for attempt in attempts
    ]


def _details(attempt: DeliveryAttempt) -> Iterable[str]:
    if attempt.duration is not None:
        yield f"{floatformat(attempt.duration, 2)} s"
    if attempt.phase:
        yield _("up to: %(phase)s") % {"phase": _PHASES.get(attempt.phase, attempt.phase)}
    if attempt.smtp_config or attempt.host:
        yield f"{attempt.smtp_config} ({attempt.host})" if attempt.host else attempt.smtp_config
    if attempt.config_version:
        yield _("as saved at: %(moment)s") % {"moment": _moment(attempt.config_version)}
    if attempt.tls_version:
        yield attempt.tls_version


def _moment(version: str) -> str:
    """Return the time when this version of the configuration was saved."""
    try:
        return exactly(dt.datetime.fromisoformat(version))
    except ValueError:
        return version
