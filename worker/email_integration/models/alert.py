"""What people are being told of."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from .primary import PrimaryManager


class Alert(models.Model):
    """There is a row while something is wrong that people are told of, and until they were told that it is over.

    What makes, changes and deletes it is in ``email_integration.alerts``.
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
    # The name of the configuration, or the lane; blank where there is nothing to tell apart.
    subject = models.CharField(max_length=100, blank=True)
    text = models.TextField()
    since = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True)
    told_at = models.DateTimeField(null=True)
    # When somebody tells it, or tries again to; NULL when all was told. Whoever does moves it on first.
    tell_at = models.DateTimeField(null=True)
    # To whom it has yet to be told: 'hook', 'mail', separated by a comma.
    left = models.CharField(max_length=20, blank=True)
    # How often in a row that failed.
    failures = models.PositiveSmallIntegerField(default=0)

    objects = PrimaryManager()

    class Meta:
        default_permissions = ()
        constraints = (models.UniqueConstraint(fields=("kind", "subject"), name="alert_kind_subject"),)

    def __str__(self) -> str:
        return self.text
