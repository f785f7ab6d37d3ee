"""The open circuit breakers of relays at fault."""

from __future__ import annotations

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from email_integration.outcomes.causes import LONGEST

from .primary import PrimaryModel


class CircuitBreaker(PrimaryModel):
    """There is a row while the circuit breaker of a relay is open: the relay is at fault, and no process connects to
    it but for one half-open probe at a time.

    ``email_integration.routing.breaker`` trips and resets it.
    """

    # A keyed digest of all the settings of the relay, its password too: corrected settings are another relay.
    key = models.CharField(primary_key=True, max_length=64)
    smtp_config = models.CharField(_("SMTP configuration"), max_length=100)
    host = models.CharField(_("host"), max_length=255)
    opened_at = models.DateTimeField(_("at fault since"), default=timezone.now)
    # How often in a row the relay was tried in vain.
    failures = models.PositiveIntegerField(_("failures"), default=1)
    # When the next half-open probe may be made; the process that makes it moves this on first.
    probe_at = models.DateTimeField(_("next try"))
    code = models.PositiveSmallIntegerField(_("code"), null=True)
    # A ``Cause``.
    cause = models.CharField(max_length=LONGEST, blank=True, default="", db_default="")
    reason = models.CharField(_("reason"), max_length=255)

    class Meta:
        verbose_name = _("relay at fault")
        verbose_name_plural = _("relays at fault")
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.smtp_config} ({self.host}): {self.reason}"
