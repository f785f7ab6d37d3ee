"""The open circuit breakers of relays at fault."""

from __future__ import annotations

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from email_integration.outcomes.causes import LONGEST

from .primary import PrimaryModel


class CircuitBreaker(PrimaryModel):
    """An open circuit breaker: no process connects to the relay at fault, except for one half-open probe at a time.

    ``email_integration.routing.breaker`` trips and resets it. A closed breaker has no row.
    """

    # A keyed digest of all the settings of the relay, password included: corrected settings are another relay.
    key = models.CharField(primary_key=True, max_length=64)
    smtp_config = models.CharField(_("SMTP configuration"), max_length=100)
    host = models.CharField(_("host"), max_length=255)
    opened_at = models.DateTimeField(_("open since"), default=timezone.now)
    # The number of failures of the relay in a row.
    failures = models.PositiveIntegerField(_("failures"), default=1)
    # When the next half-open probe may be made; the process that makes it first moves this on.
    probe_at = models.DateTimeField(_("next try"))
    code = models.PositiveSmallIntegerField(_("code"), null=True)
    # A ``Cause``.
    cause = models.CharField(max_length=LONGEST, blank=True, default="", db_default="")
    reason = models.CharField(_("reason"), max_length=255)

    class Meta:
        verbose_name = _("open circuit breaker")
        verbose_name_plural = _("open circuit breakers")
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.smtp_config} ({self.host}): {self.reason}"
