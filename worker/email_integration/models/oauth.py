"""Access tokens of OAuth 2.0 (RFC 6749): one for each configuration that logs in by them, for all processes."""

from __future__ import annotations

import datetime as dt

from django.db import models
from django.utils.translation import gettext_lazy as _

from email_integration.exceptions import SecretUnreadable
from email_integration.fields import EncryptedTextField

from .sealed import SealedQuerySet, SealedRow

#: How long before its end a token is fetched anew: so many seconds, and no more than this part of its life.
_AHEAD = 300.0
_AHEAD_PART = 0.2
#: The same for when it is not used any more; clocks differ.
_MARGIN = 10.0
_MARGIN_PART = 0.1


class Grant(models.TextChoices):
    """How a token is asked for (RFC 6749 §4.4 and §6, RFC 7523 §2.1)."""

    CLIENT_CREDENTIALS = "client_credentials", _("client credentials")
    REFRESH_TOKEN = "refresh_token", _("refresh token")
    JWT_BEARER = "jwt_bearer", _("service account")


class OAuthToken(SealedRow):
    """The token that a configuration logs in by; fetched by one process, used by all.

    What fetches it is in ``email_integration.routing.tokens``.
    """

    config = models.OneToOneField(
        "email_integration.SMTPConfig", models.CASCADE, primary_key=True, related_name="oauth_token"
    )
    # A keyed digest of what it was asked for with: mended settings have another token.
    settings = models.CharField(max_length=64)
    access_token = EncryptedTextField(row="seal_id", blank=True, default="")
    # What the endpoint has put in the place of the configuration's own, if it does so (RFC 6749 §6).
    refresh_token = EncryptedTextField(row="seal_id", blank=True, default="")
    fetched_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    # Who is fetching it, and until when nobody else does.
    lease = models.CharField(max_length=32, blank=True)
    lease_until = models.DateTimeField(null=True)
    # Why there is none, or no newer one.
    failed_at = models.DateTimeField(null=True)
    error = models.CharField(max_length=255, blank=True)

    objects = SealedQuerySet.as_manager()

    class Meta:
        verbose_name = _("OAuth token")
        verbose_name_plural = _("OAuth tokens")
        default_permissions = ()

    def __str__(self) -> str:
        return str(_("OAuth token"))

    def usable(self, now: dt.datetime) -> str:
        """The token, '' when there is none, it has ended, or it cannot be opened."""
        if self._left(now) <= min(_MARGIN, _MARGIN_PART * self._life):
            return ""
        try:
            return str(self.access_token)
        except SecretUnreadable:
            return ""

    def is_old(self, now: dt.datetime) -> bool:
        """Whether it is time to fetch the next one."""
        return self._left(now) <= min(_AHEAD, _AHEAD_PART * self._life)

    @property
    def _life(self) -> float:
        if self.expires_at is None or self.fetched_at is None:
            return 0.0
        return (self.expires_at - self.fetched_at).total_seconds()

    def _left(self, now: dt.datetime) -> float:
        return (self.expires_at - now).total_seconds() if self.expires_at is not None else 0.0
