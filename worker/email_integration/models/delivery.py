"""Deliveries and their attempts."""

from __future__ import annotations

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from email_integration.outcomes.causes import LONGEST
from email_integration.outcomes.status import FINAL, Status

from .database_time import DatabaseTime
from .indexes import LongTextIndex, PartialIndex
from .primary import PrimaryModel


class InDoubtPolicy(models.TextChoices):
    """How to handle a mail in doubt, which the server may or may not have."""

    RESEND = "resend", _("send it again")
    HOLD = "hold", _("hold it until a person decides")


class Priority(models.TextChoices):
    """How urgent a mail is: the priority selects the queue, and so the workers."""

    HIGH = "high", _("high")
    NORMAL = "normal", _("normal")
    BULK = "bulk", _("bulk")


class Delivery(PrimaryModel):
    """One mail to deliver: its envelope, its finished content, and its progress."""

    id = models.CharField(primary_key=True, max_length=255, help_text=_("The Celery task id."))
    status = models.CharField(_("status"), max_length=12, choices=Status, default=Status.QUEUED)
    # An optimistic lock: every transition increments it; a transition that has read an older version does nothing.
    version = models.PositiveIntegerField(default=0)
    message_id = models.CharField(_("Message-ID"), max_length=998)
    # The From header. Blank while the sender is not decided; it is then not in the content.
    from_header = models.TextField(_("from"), blank=True)
    # Its position in the content, in octets; NULL when the content contains it.
    from_at = models.PositiveIntegerField(null=True)
    # The envelope's sender; blank when it is the address of the From header, '<>' for none (RFC 5321 §4.5.5).
    sender = models.CharField(max_length=1000, blank=True)  # addresses.LONGEST
    # [{"address": …, "status": "pending" | "accepted" | "failed", "code": …, "reply": …, "cause": …, "reason": …}]
    recipients = models.JSONField(_("recipients"))
    # The subject for lists, sealed like the content (``message.sealed_subjects``). It stays when the content is
    # dropped; blank when it was erased, or the row was written by a version without it.
    subject = models.TextField(blank=True, default="", db_default="")
    # The id of the delivery that a person has sent a copy of; NULL when it is not a copy. That row may be deleted.
    copy_of = models.CharField(max_length=255, null=True)  # noqa: DJ001  # NULLs are not in its index
    # The name in the storage of contents; blank when the content is in the row.
    content_file = models.CharField(max_length=255, blank=True)
    # The description of its encryption (``message.encryption``), without a secret; blank when it is not encrypted.
    content_seal = models.CharField(max_length=100, blank=True)
    # Whether the content is still kept: in the row or in the storage.
    has_content = models.BooleanField(default=True)
    # The size of the plain content, in octets, and whether one of them is beyond ASCII.
    content_size = models.PositiveBigIntegerField(_("size"), default=0)
    eight_bit = models.BooleanField(default=False)
    idempotency_key = models.CharField(max_length=255, null=True, unique=True)  # noqa: DJ001  # NULLs do not collide
    created_at = models.DateTimeField(_("submitted at"), default=timezone.now, editable=False)
    priority = models.CharField(_("priority"), max_length=6, choices=Priority, default=Priority.NORMAL)
    # For this mail only; blank means the setting IN_DOUBT.
    in_doubt_policy = models.CharField(_("when in doubt"), max_length=6, choices=InDoubtPolicy, blank=True)
    due_at = models.DateTimeField(_("due at"))
    expires_at = models.DateTimeField(_("expires at"))
    # When it may be claimed: when it is due, or at an earlier expiry; NULL for a delivery that may not be claimed,
    # because it is prepared, held or finished. A claim does not change it.
    next_at = models.DateTimeField(null=True, db_default=DatabaseTime())
    # The queue that the caller has chosen, or a route to it as JSON; blank means that of the priority.
    queue = models.CharField(max_length=255, blank=True, default="", db_default="")
    # The DeliveryBatch that it is claimed with; blank when no process has claimed it. Not in any index, like everything
    # else that a claim writes, so that claims are HOT updates on PostgreSQL.
    batch = models.CharField(max_length=36, blank=True, default="", db_default="")
    # A cancellation was requested while it was claimed.
    cancel_requested = models.BooleanField(default=False, db_default=False)
    # The number of processes in a row that were killed while they prepared or wrote it.
    returned = models.PositiveSmallIntegerField(default=0, db_default=0)
    attempts = models.PositiveIntegerField(_("attempts"), default=0)
    # The last outcome: a ``Cause``, blank for no outcome yet and for acceptance; and this app's description, without
    # addresses and without the server's text.
    code = models.PositiveSmallIntegerField(_("code"), null=True)
    cause = models.CharField(max_length=LONGEST, blank=True, default="", db_default="")
    reason = models.CharField(_("reason"), max_length=255, blank=True)
    smtp_config = models.CharField(_("SMTP configuration"), max_length=100, blank=True)
    # The configuration's version and the worker of the last attempt.
    config_version = models.CharField(max_length=40, blank=True)
    worker = models.CharField(max_length=255, blank=True)
    finished_at = models.DateTimeField(_("finished at"), null=True)
    # Data for the caller's task queue: only the entry point that wrote it reads it.
    options = models.TextField(blank=True)
    # The trace of its submission (W3C Trace Context §3.2); blank without tracing.
    traceparent = models.CharField(max_length=55, blank=True)
    # The real recipients under REDIRECT_ALL_TO; blank when it went to its own recipients.
    redirected_to = models.TextField(_("redirected to"), blank=True)
    # Deferred for a cause that is not this mail: due at once when the configuration changes.
    waits_for_relay = models.BooleanField(default=False)
    # When the sweeper publishes the continuation of the finished delivery; NULL when it was published, or there is
    # none.
    continue_after = models.DateTimeField(null=True)
    # The headers and the body, encrypted; empty when they are in the storage, or no longer kept. The last column:
    # SQLite then reads the others without it, and reserves space for it without using memory.
    content = models.BinaryField(default=b"")

    class Meta:
        verbose_name = _("delivery")
        verbose_name_plural = _("deliveries")
        ordering = ("-created_at",)
        permissions = (("view_delivery_content", _("Can see subjects, addresses and contents of deliveries")),)
        indexes = (
            # The queries of claims and sweeps cost the same for any number of finished rows.
            PartialIndex(
                fields=("queue", "priority", "next_at"),
                condition=models.Q(next_at__isnull=False),
                name="delivery_next_at",
            ),
            PartialIndex(
                fields=("continue_after",),
                condition=models.Q(continue_after__isnull=False),
                name="delivery_continue_after",
            ),
            PartialIndex(fields=("due_at",), condition=models.Q(waits_for_relay=True), name="delivery_waits_for_relay"),
            PartialIndex(
                fields=("finished_at",), condition=models.Q(finished_at__isnull=False), name="delivery_finished_at"
            ),
            PartialIndex(
                fields=("finished_at", "has_content"),
                condition=models.Q(finished_at__isnull=False, has_content=True),
                name="delivery_finished_content",
            ),
            # Counts deliveries that finished with another status. Accepted ones, which are most, cost nothing here.
            PartialIndex(
                fields=("finished_at", "status"),
                condition=models.Q(finished_at__isnull=False) & ~models.Q(status="accepted"),
                name="delivery_finished_otherwise",
            ),
            PartialIndex(fields=("content_file",), condition=~models.Q(content_file=""), name="delivery_content_file"),
            PartialIndex(fields=("copy_of",), condition=models.Q(copy_of__isnull=False), name="delivery_copy_of"),
            # For people's queries, read backwards, newest first. Most rows are accepted: the time is enough for those,
            # and all others are found among any number of accepted ones.
            models.Index(fields=("created_at",), name="delivery_created_at"),
            PartialIndex(
                fields=("status", "created_at"), condition=~models.Q(status="accepted"), name="delivery_not_accepted"
            ),
            LongTextIndex(fields=("message_id",), name="delivery_message_id"),
        )

    def __str__(self) -> str:
        return f"{self.id} ({self.get_current_status_display()})"

    @property
    def current_status(self) -> str:
        """The status for people: 'sending' while a process has claimed it."""
        return Status.SENDING.value if self.batch else str(self.status)

    def get_current_status_display(self) -> str:
        """Return the same status as translated text."""
        # A damaged row may have any status.
        return str(dict(Status.choices).get(self.current_status, self.current_status))

    @property
    def is_settled(self) -> bool:
        """Whether it is finished, and its continuation is published too."""
        return self.status in FINAL and self.continue_after is None


class DeliveryBatch(PrimaryModel):
    """Deliveries that one process has claimed together, with the end of their lease.

    The row exists as long as one of them is claimed with it.
    """

    id = models.CharField(primary_key=True, max_length=36)
    # Host, process number and a random part: the process that claimed it, as in the name of its journal.
    owner = models.CharField(max_length=255)
    claimed_at = models.DateTimeField()
    # Not in any index, so that renewing it is a HOT update; there are few rows.
    lease_until = models.DateTimeField()
    # When the lease was found expired; the batch is taken over a while later if the owner has not renewed it since.
    suspected_at = models.DateTimeField(null=True)
    # For how many of the items, from the first, the owner may send final dots.
    permitted = models.PositiveIntegerField()
    # One of them is to be cancelled: the owner's next record finds out which one.
    cancel_requested = models.BooleanField(default=False, db_default=False)
    # [[delivery id, version], …] in the order of sending.
    items = models.JSONField()
    # The configuration that they are sent with.
    smtp_config = models.CharField(max_length=100, blank=True)
    config_version = models.CharField(max_length=40, blank=True)
    from_email = models.TextField(blank=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.id} ({len(self.items)})"


class RevokedTask(PrimaryModel):
    """The id of a task that was revoked before a delivery of that id existed; kept for a day."""

    id = models.CharField(primary_key=True, max_length=255)
    created_at = models.DateTimeField(db_default=DatabaseTime(), db_index=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.id


class DeliveryAttempt(PrimaryModel):
    """One attempt at one delivery; it stays when its configuration is deleted."""

    delivery = models.ForeignKey(Delivery, on_delete=models.CASCADE, related_name="attempt_log")
    number = models.PositiveIntegerField(_("number"))
    started_at = models.DateTimeField(_("started at"))
    finished_at = models.DateTimeField(_("finished at"), default=timezone.now)
    # In seconds, by a monotonic clock.
    duration = models.FloatField(_("duration"), null=True)
    outcome = models.CharField(_("outcome"), max_length=12, choices=Status)
    phase = models.CharField(_("phase"), max_length=12, blank=True)
    code = models.PositiveSmallIntegerField(_("code"), null=True)
    cause = models.CharField(max_length=LONGEST, blank=True, default="", db_default="")
    reason = models.CharField(_("reason"), max_length=255, blank=True)
    # The server's text, which may contain addresses.
    reply = models.CharField(_("reply"), max_length=500, blank=True)
    smtp_config = models.CharField(_("SMTP configuration"), max_length=100, blank=True)
    config_version = models.CharField(_("version"), max_length=40, blank=True)
    tls_version = models.CharField(_("TLS"), max_length=16, blank=True)
    host = models.CharField(_("host"), max_length=255, blank=True)
    worker = models.CharField(_("worker"), max_length=255, blank=True)

    class Meta:
        verbose_name = _("delivery attempt")
        verbose_name_plural = _("delivery attempts")
        ordering = ("delivery", "number", "pk")
        indexes = (
            # Recent failures, among any number of accepted attempts, which are not in it.
            PartialIndex(
                fields=("finished_at", "outcome"), condition=~models.Q(outcome="accepted"), name="attempt_not_accepted"
            ),
        )

    def __str__(self) -> str:
        return f"{self.number}: {self.outcome}"
