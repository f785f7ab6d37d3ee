"""Deliveries, and what happened at each attempt."""

from __future__ import annotations

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class Status(models.TextChoices):
    """The life of a delivery; see docs/reference.md."""

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
        """Whether nothing more will be done by itself."""
        return self in FINAL


FINAL = frozenset({Status.ACCEPTED, Status.FAILED, Status.EXPIRED, Status.CANCELLED, Status.QUARANTINED})


class Delivery(models.Model):
    """One mail on its way: the envelope, the finished content, and how far it came."""

    id = models.CharField(primary_key=True, max_length=255, help_text=_("The Celery task id."))
    status = models.CharField(_("status"), max_length=12, choices=Status, default=Status.QUEUED)
    # Raised by every transition; a transition that has seen an older one does nothing.
    fence = models.PositiveIntegerField(default=0)
    message_id = models.CharField(_("Message-ID"), max_length=998)
    # The From header. Blank until the first claim when the sender was left open; then it is not in the content.
    from_header = models.TextField(_("from"), blank=True)
    from_open = models.BooleanField(default=False)
    # The envelope's sender; blank when it is the address of the From header.
    sender = models.CharField(max_length=320, blank=True)
    # [{"address": …, "status": "pending" | "accepted" | "failed", "code": …, "reply": …}]
    recipients = models.JSONField(_("recipients"))
    content = models.BinaryField()
    idempotency_key = models.CharField(max_length=255, null=True, unique=True)  # noqa: DJ001  # NULLs do not collide
    created_at = models.DateTimeField(_("submitted at"), default=timezone.now, editable=False)
    due_at = models.DateTimeField(_("due at"))
    expires_at = models.DateTimeField(_("expires at"))
    # When the sweep rings next; NULL once nothing more is to be done.
    ring_after = models.DateTimeField(null=True, db_index=True)
    rings = models.PositiveSmallIntegerField(default=0)
    # Attempts begun after a repeated ring that came to no outcome: a mail that kills its worker.
    unfinished = models.PositiveSmallIntegerField(default=0)
    lease_until = models.DateTimeField(null=True)
    attempts = models.PositiveIntegerField(_("attempts"), default=0)
    # The last outcome, in our words, without address and without the server's text.
    code = models.PositiveSmallIntegerField(_("code"), null=True)
    reason = models.CharField(_("reason"), max_length=255, blank=True)
    smtp_config = models.CharField(_("SMTP configuration"), max_length=100, blank=True)
    finished_at = models.DateTimeField(_("finished at"), null=True)
    # What the caller's task queue wants back: opaque to everything but the door that wrote it.
    options = models.TextField(blank=True)
    # Where it really went, by REDIRECT_ALL_TO; blank when it went to its recipients.
    redirected_to = models.TextField(_("redirected to"), blank=True)
    # Deferred for nothing to do with this mail: due at once when the configuration changes.
    waits_for_relay = models.BooleanField(default=False)
    # Whether what follows the delivery in the caller's task queue has been set going.
    continued = models.BooleanField(default=False)

    class Meta:
        verbose_name = _("delivery")
        verbose_name_plural = _("deliveries")
        ordering = ("-created_at",)
        permissions = (("view_recipients", _("Can see the recipients of deliveries")),)
        indexes = (
            models.Index(
                fields=("waits_for_relay",), condition=models.Q(waits_for_relay=True), name="delivery_waits_for_relay"
            ),
        )

    def __str__(self) -> str:
        return f"{self.id} ({self.status})"


class DeliveryAttempt(models.Model):
    """One try at one delivery; outlives the configuration it used."""

    delivery = models.ForeignKey(Delivery, on_delete=models.CASCADE, related_name="attempt_log")
    number = models.PositiveIntegerField(_("number"))
    started_at = models.DateTimeField(_("started at"))
    finished_at = models.DateTimeField(_("finished at"), default=timezone.now)
    outcome = models.CharField(_("outcome"), max_length=12, choices=Status)
    phase = models.CharField(_("phase"), max_length=12, blank=True)
    code = models.PositiveSmallIntegerField(_("code"), null=True)
    reason = models.CharField(_("reason"), max_length=255, blank=True)
    smtp_config = models.CharField(_("SMTP configuration"), max_length=100, blank=True)
    host = models.CharField(_("host"), max_length=255, blank=True)
    worker = models.CharField(_("worker"), max_length=255, blank=True)

    class Meta:
        verbose_name = _("delivery attempt")
        verbose_name_plural = _("delivery attempts")
        ordering = ("delivery", "number", "pk")

    def __str__(self) -> str:
        return f"{self.number}: {self.outcome}"
