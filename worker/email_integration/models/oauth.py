"""OAuth 2.0 tokens (RFC 6749): the access token of each configuration, and the newest of its refresh tokens."""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _

from email_integration.exceptions import SecretUnreadable
from email_integration.fields import EncryptedTextField

from .primary import PrimaryManager
from .sealed import SealedQuerySet, SealedRow, sensitive_methods

#: How long before its expiry a token is fetched again: this many seconds, but at most this part of its lifetime.
_AHEAD = 300.0
_AHEAD_PART = 0.2
#: The same for the time when it is no longer used, because clocks differ.
_MARGIN = 10.0
_MARGIN_PART = 0.1


class Grant(models.TextChoices):
    """The grant of a token request (RFC 6749 §4.4 and §6, RFC 7523 §2.1)."""

    CLIENT_CREDENTIALS = "client_credentials", _("client credentials")
    REFRESH_TOKEN = "refresh_token", _("refresh token")
    JWT_BEARER = "jwt_bearer", _("service account")


class OAuthToken(SealedRow):
    """The token that a configuration logs in with; fetched by one process, used by all.

    ``email_integration.routing.tokens`` fetches it.
    """

    config = models.OneToOneField(
        "email_integration.SMTPConfig", models.CASCADE, primary_key=True, related_name="oauth_token"
    )
    # A keyed digest of the fields of its request: changed settings have another token.
    settings = models.CharField(max_length=64)
    access_token = EncryptedTextField(row="seal_id", blank=True, default="")
    fetched_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    # The process that fetches it, and the time until which no other process does.
    lease = models.CharField(max_length=32, blank=True)
    lease_until = models.DateTimeField(null=True)
    # When the last fetch failed, and why.
    failed_at = models.DateTimeField(null=True)
    error = models.CharField(max_length=255, blank=True)

    objects = PrimaryManager.from_queryset(SealedQuerySet)()

    class Meta:
        verbose_name = _("OAuth token")
        verbose_name_plural = _("OAuth tokens")
        default_permissions = ()

    def __str__(self) -> str:
        return str(_("OAuth token"))

    def usable(self, now: dt.datetime) -> str:
        """Return the token, or '' when there is none, it has expired, or it cannot be decrypted."""
        if self._left(now) <= min(_MARGIN, _MARGIN_PART * self._life):
            return ""
        try:
            return str(self.access_token)
        except SecretUnreadable:
            return ""

    def is_old(self, now: dt.datetime) -> bool:
        """Return whether it is time to fetch the next one."""
        return self._left(now) <= min(_AHEAD, _AHEAD_PART * self._life)

    @property
    def _life(self) -> float:
        if self.expires_at is None or self.fetched_at is None:
            return 0.0
        return (self.expires_at - self.fetched_at).total_seconds()

    def _left(self, now: dt.datetime) -> float:
        return (self.expires_at - now).total_seconds() if self.expires_at is not None else 0.0


class RefreshFamily(SealedRow):
    """The refresh tokens of an endpoint, each replacing the one before, beginning with one that was entered.

    The family is found by its first token, in any configuration and with any other settings. Therefore all settings,
    copies and tests share one newest token, and no old one is sent again (RFC 6749 §6, RFC 9700 §4.14).
    ``email_integration.routing.families`` sends it to the endpoint.
    """

    #: Of the first token. A refresh token cannot be guessed (RFC 6749 §10.10), and neither can it from its digest.
    fingerprint = models.CharField(max_length=64, primary_key=True)
    # Their provider: host and port of the token endpoint.
    provider = models.CharField(max_length=300, blank=True)
    # Blank while the first one is the newest.
    newest = EncryptedTextField(row="seal_id", blank=True, default="")
    # When the newest was requested, and when one of them was last valid.
    asked_at = models.DateTimeField(null=True)
    used_at = models.DateTimeField(null=True)
    # The process that sends it now, and the time until which no other does.
    lease = models.CharField(max_length=32, blank=True)
    lease_until = models.DateTimeField(null=True)

    objects = PrimaryManager.from_queryset(SealedQuerySet)()

    class Meta:
        verbose_name = _("family of refresh tokens")
        verbose_name_plural = _("families of refresh tokens")
        default_permissions = ()

    def __str__(self) -> str:
        return str(_("family of refresh tokens"))

    @staticmethod
    def fingerprint_of(token: str) -> str:
        """Return the key of the family whose first refresh token is ``token``."""
        return hashlib.sha256(f"email_integration.refresh\0{token}".encode()).hexdigest()


def keep_newer(sender: Any, instance: RefreshFamily, raw: bool, using: str, **_: Any) -> None:
    """Keep the stored family when a dump with an older one is loaded; receiver of Django's ``pre_save``."""
    stored = RefreshFamily.objects.using(using).filter(pk=instance.pk).first() if raw else None
    if stored is None or stored.asked_at is None:
        return
    if instance.asked_at is None or instance.asked_at <= stored.asked_at:
        instance.__dict__.update({field.attname: stored.__dict__[field.attname] for field in sender._meta.fields})


for _model in (OAuthToken, RefreshFamily):
    sensitive_methods(type(_model._default_manager))  # a class made for this manager
