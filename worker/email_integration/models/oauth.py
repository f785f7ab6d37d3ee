"""Tokens of OAuth 2.0 (RFC 6749): the access token of each configuration, and the newest of its refresh tokens."""

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
    # A keyed digest of what it was asked for with: changed settings have another token.
    settings = models.CharField(max_length=64)
    access_token = EncryptedTextField(row="seal_id", blank=True, default="")
    fetched_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    # Who is fetching it, and until when nobody else does.
    lease = models.CharField(max_length=32, blank=True)
    lease_until = models.DateTimeField(null=True)
    # Why there is none, or no newer one.
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


class RefreshFamily(SealedRow):
    """The refresh tokens that an endpoint gave, one in the place of the other, beginning with one that was entered.

    It is found by that one, whatever configuration it stands in and whatever else that says: so there is one newest for
    all settings, for copies and for tests, and no old one is shown again (RFC 6749 §6, RFC 9700 §4.14).
    ``email_integration.routing.families`` shows it to the endpoint.
    """

    #: Of the first one. Such a token cannot be guessed (RFC 6749 §10.10), so that neither can it be from its digest.
    fingerprint = models.CharField(max_length=64, primary_key=True)
    # Whose they are: host and port of the token endpoint.
    provider = models.CharField(max_length=300, blank=True)
    # Blank while the first one is the newest.
    newest = EncryptedTextField(row="seal_id", blank=True, default="")
    # When the newest was asked for, and any of them was good last.
    asked_at = models.DateTimeField(null=True)
    used_at = models.DateTimeField(null=True)
    # The process that shows it now, and until when no other does.
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
        """Return what a family is found by whose first refresh token is ``token``."""
        return hashlib.sha256(f"email_integration.refresh\0{token}".encode()).hexdigest()


def keep_newer(sender: Any, instance: RefreshFamily, raw: bool, using: str, **_: Any) -> None:
    """Leave a family as it is stored when a dump is loaded that is older; receiver of Django's ``pre_save``."""
    stored = RefreshFamily.objects.using(using).filter(pk=instance.pk).first() if raw else None
    if stored is None or stored.asked_at is None:
        return
    if instance.asked_at is None or instance.asked_at <= stored.asked_at:
        instance.__dict__.update({field.attname: stored.__dict__[field.attname] for field in sender._meta.fields})


for _model in (OAuthToken, RefreshFamily):
    sensitive_methods(type(_model._default_manager))  # made for this one
