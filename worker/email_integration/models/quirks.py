"""The learned quirks of servers."""

from __future__ import annotations

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from .primary import PrimaryModel


class PipeliningQuirk(models.TextChoices):
    """The values of ``email_integration.smtp.Pipelining``."""

    FULL = "full", _("as offered")
    GROUPS = "groups", _("within one mail only")
    NONE = "none", _("off")


class ServerQuirks(PrimaryModel):
    """The deviations of a relay's server from its announcements; kept by ``email_integration.routing.quirks``.

    When the row is deleted, they are found out again.
    """

    # A keyed digest of all the settings of the relay and of their version: a saved configuration begins anew.
    key = models.CharField(primary_key=True, max_length=64)
    smtp_config = models.CharField(_("SMTP configuration"), max_length=100)
    host = models.CharField(_("host"), max_length=255)
    pipelining = models.CharField(
        _("several commands at once"), max_length=10, choices=PipeliningQuirk, default=PipeliningQuirk.FULL
    )
    mails = models.PositiveIntegerField(_("mails per session"), null=True, blank=True)
    recipients = models.PositiveIntegerField(_("recipients per transaction"), null=True, blank=True)
    learned_at = models.DateTimeField(_("learned at"), default=timezone.now)

    class Meta:
        verbose_name = _("learned limit of a server")
        verbose_name_plural = _("learned limits of servers")
        ordering = ("smtp_config", "host")
        default_permissions = ("view", "delete")

    def __str__(self) -> str:
        return f"{self.smtp_config} ({self.host})"
