"""The alerts that people are notified of."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from .primary import PrimaryModel


class Alert(PrimaryModel):
    """A condition that is active, or whose end people are not notified of yet; the row is deleted afterwards.

    ``email_integration.alerts`` creates, changes and deletes it.
    """

    class Kind(models.TextChoices):
        """The kind of a condition."""

        LOGIN_REFUSED = "login_refused"
        RELAY_AT_FAULT = "relay_at_fault"
        QUEUE_LATE = "queue_late"
        IN_DOUBT = "in_doubt"
        QUARANTINED = "quarantined"
        SECRET_ENDS = "secret_ends"  # noqa: S105  # a kind, not a secret

    kind = models.CharField(max_length=20, choices=Kind)
    # The name of the configuration, or the priority; blank where there is only one condition of this kind.
    subject = models.CharField(max_length=100, blank=True)
    text = models.TextField()
    since = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True)
    # The time of the last notification.
    notified_at = models.DateTimeField(null=True)
    # When a notification is due, for the first time or again; NULL when none is. The notifying process first moves it
    # on.
    notify_at = models.DateTimeField(null=True)
    # The channels that are not notified yet: 'hook', 'mail', separated by a comma.
    pending_channels = models.CharField(max_length=20, blank=True)
    # The number of failed notifications in a row.
    failures = models.PositiveSmallIntegerField(default=0)

    class Meta:
        default_permissions = ()
        constraints = (models.UniqueConstraint(fields=("kind", "subject"), name="alert_kind_subject"),)

    def __str__(self) -> str:
        return self.text
