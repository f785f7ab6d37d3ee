"""Deliveries, and what happened at each attempt."""

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
    """What becomes of a mail that the server may or may not have."""

    RESEND = "resend", _("send it again")
    HOLD = "hold", _("hold it for a person")


class Priority(models.TextChoices):
    """How urgent a mail is: it chooses the queue, and so the workers."""

    HIGH = "high", _("high")
    NORMAL = "normal", _("normal")
    BULK = "bulk", _("bulk")


class Delivery(PrimaryModel):
    """One mail on its way: the envelope, the finished content, and how far it came."""

    id = models.CharField(primary_key=True, max_length=255, help_text=_("The Celery task id."))
    status = models.CharField(_("status"), max_length=12, choices=Status, default=Status.QUEUED)
    # An optimistic lock: raised by every transition; a transition that has seen an older one does nothing.
    version = models.PositiveIntegerField(default=0)
    message_id = models.CharField(_("Message-ID"), max_length=998)
    # The From header. Blank while the sender is left open; then it is not in the content.
    from_header = models.TextField(_("from"), blank=True)
    # Where in the content it belongs, in octets; NULL when it is there.
    from_at = models.PositiveIntegerField(null=True)
    # The envelope's sender; blank when it is the address of the From header, '<>' for none (RFC 5321 §4.5.5).
    sender = models.CharField(max_length=1000, blank=True)  # addresses.LONGEST
    # [{"address": …, "status": "pending" | "accepted" | "failed", "code": …, "reply": …, "cause": …, "reason": …}]
    recipients = models.JSONField(_("recipients"))
    # The name in the storage of contents; blank when they are in the row.
    content_file = models.CharField(max_length=255, blank=True)
    # How they are sealed (``message.encryption``), without a secret; blank when they are not.
    content_seal = models.CharField(max_length=100, blank=True)
    # Whether they are still kept: in the row or in the storage.
    has_content = models.BooleanField(default=True)
    # Of the plain content, in octets, and whether one of them is beyond ASCII.
    content_size = models.PositiveBigIntegerField(_("size"), default=0)
    eight_bit = models.BooleanField(default=False)
    idempotency_key = models.CharField(max_length=255, null=True, unique=True)  # noqa: DJ001  # NULLs do not collide
    created_at = models.DateTimeField(_("submitted at"), default=timezone.now, editable=False)
    priority = models.CharField(_("priority"), max_length=6, choices=Priority, default=Priority.NORMAL)
    # Of this mail alone; blank is what the setting IN_DOUBT says.
    in_doubt_policy = models.CharField(_("when in doubt"), max_length=6, choices=InDoubtPolicy, blank=True)
    due_at = models.DateTimeField(_("due at"))
    expires_at = models.DateTimeField(_("expires at"))
    # When it may be claimed: when it is due, or expires before that; NULL for what may not, which is prepared, held or
    # finished. A claim leaves it as it is.
    next_at = models.DateTimeField(null=True, db_default=DatabaseTime())
    # The queue that the caller has chosen, or the way to it as JSON; blank is that of the priority.
    queue = models.CharField(max_length=255, blank=True, default="", db_default="")
    # The DeliveryBatch it is claimed with; blank when no process has it in hand. In no index, nor is anything else that
    # a claim writes, so that claims are HOT updates on PostgreSQL.
    batch = models.CharField(max_length=36, blank=True, default="", db_default="")
    # That it be cancelled, asked for while it was claimed.
    cancel_requested = models.BooleanField(default=False, db_default=False)
    # Processes killed in a row while they prepared or wrote it.
    returned = models.PositiveSmallIntegerField(default=0, db_default=0)
    attempts = models.PositiveIntegerField(_("attempts"), default=0)
    # The last outcome: a ``Cause``, blank while there is none and when it was accepted; and our words, without address
    # and without the server's text.
    code = models.PositiveSmallIntegerField(_("code"), null=True)
    cause = models.CharField(max_length=LONGEST, blank=True, default="", db_default="")
    reason = models.CharField(_("reason"), max_length=255, blank=True)
    smtp_config = models.CharField(_("SMTP configuration"), max_length=100, blank=True)
    # By what and by whom it was tried last.
    config_version = models.CharField(max_length=40, blank=True)
    worker = models.CharField(max_length=255, blank=True)
    finished_at = models.DateTimeField(_("finished at"), null=True)
    # What the caller's task queue wants back: opaque to everything but the entry point that wrote it.
    options = models.TextField(blank=True)
    # The trace that it was submitted in (W3C Trace Context §3.2); blank when none is made.
    traceparent = models.CharField(max_length=55, blank=True)
    # Where it really went, by REDIRECT_ALL_TO; blank when it went to its recipients.
    redirected_to = models.TextField(_("redirected to"), blank=True)
    # Deferred for nothing to do with this mail: due at once when the configuration changes.
    waits_for_relay = models.BooleanField(default=False)
    # When the sweeper publishes what follows the finished delivery; NULL when it was published, or nothing follows.
    continue_after = models.DateTimeField(null=True)
    # The headers and the body, sealed; empty when they lie in the storage, or are kept no longer. The last column:
    # SQLite reads the others without it then, and keeps space free for it without taking memory.
    content = models.BinaryField(default=b"")

    class Meta:
        verbose_name = _("delivery")
        verbose_name_plural = _("deliveries")
        ordering = ("-created_at",)
        permissions = (("view_delivery_content", _("Can see subjects, addresses and contents of deliveries")),)
        indexes = (
            # What claims and sweeps ask costs the same however many finished rows there are.
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
            # How many came to another end than that: what is accepted, most of it, costs nothing here.
            PartialIndex(
                fields=("finished_at", "status"),
                condition=models.Q(finished_at__isnull=False) & ~models.Q(status="accepted"),
                name="delivery_finished_otherwise",
            ),
            PartialIndex(fields=("content_file",), condition=~models.Q(content_file=""), name="delivery_content_file"),
            # What people ask. Read backwards, for the newest first. Most rows are accepted: those need no more than the
            # time, and all others can be found among however many of them.
            models.Index(fields=("created_at",), name="delivery_created_at"),
            PartialIndex(
                fields=("status", "created_at"), condition=~models.Q(status="accepted"), name="delivery_not_accepted"
            ),
            LongTextIndex(fields=("message_id",), name="delivery_message_id"),
        )

    def __str__(self) -> str:
        return f"{self.id} ({self.status})"

    @property
    def current_status(self) -> str:
        """Its status as people see it: 'sending' while a process has it in hand."""
        return Status.SENDING.value if self.batch else str(self.status)

    def get_current_status_display(self) -> str:
        """The same in words."""
        # A damaged row may have any.
        return str(dict(Status.choices).get(self.current_status, self.current_status))

    @property
    def is_settled(self) -> bool:
        """Whether it is finished, and so is what follows it."""
        return self.status in FINAL and self.continue_after is None


class DeliveryBatch(PrimaryModel):
    """Deliveries that one process has claimed together, and until when they are its own.

    The row is there as long as one of them is claimed with it.
    """

    id = models.CharField(primary_key=True, max_length=36)
    # Host, process number and a random part: the process that claimed it, as its journal names it too.
    owner = models.CharField(max_length=255)
    claimed_at = models.DateTimeField()
    # In no index, so that renewing it is a HOT update; there are few rows.
    lease_until = models.DateTimeField()
    # When the lease was found expired; taken over a while later if nothing was heard of the owner since.
    suspected_at = models.DateTimeField(null=True)
    # For how many of the items, from the first, the owner may send final dots.
    permitted = models.PositiveIntegerField()
    # That one of them is to be cancelled: the owner's next record says which.
    cancel_requested = models.BooleanField(default=False, db_default=False)
    # [[delivery id, version], …] in the order in which they are sent.
    items = models.JSONField()
    # What they are sent by.
    smtp_config = models.CharField(max_length=100, blank=True)
    config_version = models.CharField(max_length=40, blank=True)
    from_email = models.TextField(blank=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.id} ({len(self.items)})"


class RevokedTask(PrimaryModel):
    """The id of a task that was revoked before there was a delivery of that id; kept for a day."""

    id = models.CharField(primary_key=True, max_length=255)
    created_at = models.DateTimeField(db_default=DatabaseTime(), db_index=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.id


class DeliveryAttempt(PrimaryModel):
    """One try at one delivery; outlives the configuration it used."""

    delivery = models.ForeignKey(Delivery, on_delete=models.CASCADE, related_name="attempt_log")
    number = models.PositiveIntegerField(_("number"))
    started_at = models.DateTimeField(_("started at"))
    finished_at = models.DateTimeField(_("finished at"), default=timezone.now)
    # In seconds, by a clock that nobody sets.
    duration = models.FloatField(_("duration"), null=True)
    outcome = models.CharField(_("outcome"), max_length=12, choices=Status)
    phase = models.CharField(_("phase"), max_length=12, blank=True)
    code = models.PositiveSmallIntegerField(_("code"), null=True)
    cause = models.CharField(max_length=LONGEST, blank=True, default="", db_default="")
    reason = models.CharField(_("reason"), max_length=255, blank=True)
    # The server's own words, which may hold addresses.
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
            # What went wrong lately, among however many attempts that went well and are not in it.
            PartialIndex(
                fields=("finished_at", "outcome"), condition=~models.Q(outcome="accepted"), name="attempt_not_accepted"
            ),
        )

    def __str__(self) -> str:
        return f"{self.number}: {self.outcome}"
