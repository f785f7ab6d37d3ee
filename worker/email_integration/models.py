"""What is stored: SMTP configurations, deliveries, and what happened at each attempt."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import IntegrityError, models, router, transaction
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from . import signals
from .fields import EncryptedTextField, Sealed

logger = logging.getLogger(__name__)

NO_ACTIVE_CONFIG = "No active SMTP Configuration found in database. Falling back to Django settings."


class SMTPConfigQuerySet(models.QuerySet["SMTPConfig"]):
    """Writes that bypass ``save()`` still tell all workers."""

    def get_active_config(self) -> SMTPConfig | None:
        """The active configuration; None, with a warning in the log, when there is none."""
        config = self.filter(is_active=True).first()
        if config is None:
            logger.warning(NO_ACTIVE_CONFIG)
        return config

    def _alias_for_writing(self) -> str:
        self._for_write = True  # as Django's own writing methods do: the router is asked for a database to write to
        return self.db

    def update(self, **kwargs: Any) -> int:
        using = self._alias_for_writing()
        signals.config_changing.send(sender=self.model, using=using)
        with transaction.atomic(using=using, savepoint=False):
            changed = super().update(**kwargs)
            signals.config_changed.send(sender=self.model, using=using)
        return changed

    update.alters_data = True  # type: ignore[attr-defined]  # Django's own mark for templates

    def bulk_create(self, objs: Any, *args: Any, **kwargs: Any) -> list[SMTPConfig]:
        using = self._alias_for_writing()
        signals.config_changing.send(sender=self.model, using=using)
        with transaction.atomic(using=using, savepoint=False):
            created = super().bulk_create(objs, *args, **kwargs)
            signals.config_changed.send(sender=self.model, using=using)
        return created


class SMTPConfig(models.Model):
    """The settings of one SMTP server; mail goes through the one that is active."""

    name = models.CharField(_("name"), max_length=100, unique=True)
    host = models.CharField(_("host"), max_length=255)
    port = models.PositiveIntegerField(
        _("port"), default=587, validators=[MinValueValidator(1), MaxValueValidator(65535)]
    )
    username = models.CharField(_("username"), max_length=255, blank=True)
    password = EncryptedTextField(_("password"), blank=True, default="")
    use_tls = models.BooleanField(_("use TLS"), default=True, help_text=_("STARTTLS, usually on port 587."))
    use_ssl = models.BooleanField(_("use SSL"), default=False, help_text=_("TLS from the start, usually on port 465."))
    from_email = models.CharField(
        _("from email"),
        max_length=320,
        help_text=_("The sender of mail that names none: an address, or Name <address>."),
    )
    timeout = models.PositiveIntegerField(
        _("timeout"), default=10, validators=[MinValueValidator(1)], help_text=_("Seconds to wait for the server.")
    )
    is_active = models.BooleanField(_("active"), default=False)
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    updated_at = models.DateTimeField(_("updated at"), auto_now=True)
    # NULL in every row but the active one: a unique index that every database enforces, MySQL and MariaDB too, which
    # know no partial ones.
    active_slot = models.GeneratedField(
        expression=models.Case(models.When(is_active=True, then=models.Value(1)), default=models.Value(None)),
        output_field=models.SmallIntegerField(null=True),
        db_persist=True,
        unique=True,
        editable=False,
    )

    objects: ClassVar[models.Manager[SMTPConfig]] = SMTPConfigQuerySet.as_manager()

    class Meta:
        verbose_name = _("SMTP Configuration")
        verbose_name_plural = _("SMTP Configurations")
        ordering = ("name",)
        constraints = (
            models.CheckConstraint(
                condition=~models.Q(use_tls=True, use_ssl=True),
                name="smtpconfig_tls_or_ssl",
                violation_error_message=_("TLS and SSL exclude each other: choose STARTTLS (TLS) or SSL, not both."),
            ),
        )

    def __str__(self) -> str:
        return f"{self.name} - {self.host}:{self.port} ({_('Active') if self.is_active else _('Inactive')})"

    def save(self, *, using: str | None = None, **kwargs: Any) -> None:
        """Save; an active configuration takes the place of the one that was active, in the same transaction.

        Raises ``ValidationError`` when TLS and SSL are both on.
        """
        if self.use_tls and self.use_ssl:
            raise ValidationError(
                {"use_ssl": _("TLS and SSL exclude each other: choose STARTTLS (TLS) or SSL, not both.")}
            )
        using = using or router.db_for_write(type(self), instance=self)
        if not self.is_active:
            super().save(using=using, **kwargs)
            return
        try:
            self._save_as_active(using, **kwargs)
        except IntegrityError:
            # Where no row was there to lock, another first one may have come between: now there is one.
            self._save_as_active(using, **kwargs)

    def _save_as_active(self, using: str, **kwargs: Any) -> None:
        configs = type(self).objects.using(using)
        with transaction.atomic(using=using):
            # All rows, always in the same order: whoever activates waits here for whoever does so already.
            list(configs.select_for_update().order_by("pk").values_list("pk", flat=True))
            configs.filter(is_active=True).exclude(pk=self.pk).update(is_active=False, updated_at=Now())
            super().save(using=using, **kwargs)

    def clean_fields(self, exclude: Any = None) -> None:
        """Leave a password alone that is still sealed: it was checked when it was entered."""
        field = self._meta.get_field("password")
        if isinstance(field, EncryptedTextField) and isinstance(field.raw(self), Sealed):
            exclude = {*(exclude or ()), "password"}
        super().clean_fields(exclude=exclude)


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
    # Whether what follows the delivery in the caller's task queue has been set going.
    continued = models.BooleanField(default=False)

    class Meta:
        verbose_name = _("delivery")
        verbose_name_plural = _("deliveries")
        ordering = ("-created_at",)

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
