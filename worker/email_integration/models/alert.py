"""The alerts that people are notified of."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from .primary import PrimaryModel


class Alert(PrimaryModel):
    """There is a row while something is wrong, and until people were notified that it is over.

    ``email_integration.alerts`` makes, changes and deletes it.
    """

    class Kind(models.TextChoices):
        """What can be wrong."""

        LOGIN_REFUSED = "login_refused"
        RELAY_AT_FAULT = "relay_at_fault"
        QUEUE_LATE = "queue_late"
        IN_DOUBT = "in_doubt"
        QUARANTINED = "quarantined"
        SECRET_ENDS = "secret_ends"  # noqa: S105  # a kind, no secret

    kind = models.CharField(max_length=20, choices=Kind)
    # The name of the configuration, or the priority; blank where there is nothing to tell apart.
    subject = models.CharField(max_length=100, blank=True)
    text = models.TextField()
    since = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True)
    # Of the last notification.
    notified_at = models.DateTimeField(null=True)
    # When a notification is due, for the first time or again; NULL when none is. Its process moves it on first.
    notify_at = models.DateTimeField(null=True)
    # The channels that have yet to be notified: 'hook', 'mail', separated by a comma.
    pending_channels = models.CharField(max_length=20, blank=True)
    # How often in a row that failed.
    failures = models.PositiveSmallIntegerField(default=0)

    class Meta:
        default_permissions = ()
        constraints = (models.UniqueConstraint(fields=("kind", "subject"), name="alert_kind_subject"),)

    def __str__(self) -> str:
        return self.text
