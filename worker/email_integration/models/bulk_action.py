"""The confirmed decisions of users about many deliveries."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone

from .primary import PrimaryModel


class BulkAction(PrimaryModel):
    """A confirmed decision about many deliveries, and how far it has been carried out.

    It is carried out in batches. Each batch is one transaction, which also moves ``position``. A process that is killed
    therefore leaves no delivery that was changed but not counted, and the next batch starts after the last one.
    """

    # Made for the page that asks for confirmation, so that one page is confirmed only once.
    id = models.UUIDField(primary_key=True)
    action = models.CharField(max_length=12)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    # What the page has shown: {"mails": [[delivery id, status], …]}, or {"query": …, "since": …, "until": …} for all
    # deliveries that match the filters. Empty after the end, because a query may contain an address.
    selection = models.JSONField()
    # The last delivery that was handled: [its index in the list], or [created_at, id]; empty before the first.
    position = models.JSONField(default=list)
    # The number of deliveries that the page has shown.
    shown = models.PositiveIntegerField()
    changed = models.PositiveIntegerField(default=0)
    # Those of the changed ones that were being sent: their cancellation was only requested.
    requested = models.PositiveIntegerField(default=0)
    # {reason: number of deliveries that were not changed}
    unchanged = models.JSONField(default=dict)
    # An optimistic lock: each batch increments it.
    version = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True)
    # A user has ended it early.
    is_stopped = models.BooleanField(default=False)
    # Its entry in the log of the admin.
    log_entry = models.PositiveBigIntegerField(null=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.action} ({self.id})"

    @property
    def handled(self) -> int:
        """The number of deliveries that were handled, changed or not."""
        return int(self.changed + sum(self.unchanged.values()))
