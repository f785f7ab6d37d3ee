"""The states of a delivery."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class Status(models.TextChoices):
    """The status of a delivery; see docs/reference.md."""

    PREPARED = "prepared", _("prepared")
    QUEUED = "queued", _("queued")
    SENDING = "sending", _("sending")
    ACCEPTED = "accepted", _("accepted")
    DEFERRED = "deferred", _("deferred")
    FAILED = "failed", _("failed")
    EXPIRED = "expired", _("expired")
    IN_DOUBT = "in_doubt", _("in doubt")
    CANCELLED = "cancelled", _("cancelled")
    QUARANTINED = "quarantined", _("quarantined")

    @property
    def is_final(self) -> bool:
        """Whether the delivery is finished: the app takes no further action."""
        return self in FINAL


FINAL = frozenset({Status.ACCEPTED, Status.FAILED, Status.EXPIRED, Status.CANCELLED, Status.QUARANTINED})
