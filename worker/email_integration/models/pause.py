"""The pause of sending: mail is accepted and waits."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from email_integration import conf
from email_integration.timezones import local_time

from .primary import PrimaryModel


class SendingPause(PrimaryModel):
    """The pause of sending; there is at most one row, and only while sending is paused."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    since = models.DateTimeField(_("since"), auto_now_add=True)
    by = models.ForeignKey(
        settings.AUTH_USER_MODEL, verbose_name=_("by"), null=True, on_delete=models.SET_NULL, related_name="+"
    )
    reason = models.CharField(_("reason"), max_length=200, blank=True)

    class Meta:
        verbose_name = _("pause")
        verbose_name_plural = _("pauses")
        default_permissions = ()
        permissions = (("pause_sending", _("Can pause and resume sending")),)
        constraints = (models.CheckConstraint(condition=models.Q(id=1), name="sendingpause_one_row"),)

    def __str__(self) -> str:
        return f"paused since {local_time(self.since):%Y-%m-%d %H:%M}"

    @classmethod
    def current(cls) -> SendingPause | None:
        """Return the current pause, or None when mail is sent; EMAIL_PAUSED gives a pause without a row."""
        if conf.get("EMAIL_PAUSED"):
            return cls(reason="EMAIL_PAUSED is set")
        return cls.objects.first()

    @classmethod
    def begin(cls, *, by: Any = None, reason: str = "") -> bool:
        """Pause all sending; return False when it was paused already. Mail is still accepted, and waits."""
        _pause, created = cls.objects.get_or_create(pk=1, defaults={"by": by, "reason": reason[:200]})
        return created

    @classmethod
    def end(cls) -> bool:
        """Resume sending; return False when ``begin`` had not paused it (EMAIL_PAUSED is changed in the settings)."""
        pause = cls.objects.filter(pk=1).first()
        if pause is None:
            return False
        pause.delete()
        return True
