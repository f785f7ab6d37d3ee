"""Key rotation: seals every stored secret again, so an old key can be removed. For contents: ``message.resealing``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cryptography.fernet import InvalidToken
from django.db import models, transaction

from email_integration import fields
from email_integration.exceptions import SecretMisplaced, SecretUnreadable
from email_integration.secrecy import with_secrets

from .audit import Event, note
from .config import SMTPConfig
from .oauth import OAuthToken, RefreshFamily
from .sealed import sealed_fields


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """The result of a rotation, as names of configurations."""

    rotated: tuple[str, ...]
    current: tuple[str, ...]
    #: Found in plain text, written by other code, and sealed.
    sealed: tuple[str, ...]
    unreadable: tuple[str, ...]
    #: Sealed for another row or field, and copied here without this app.
    misplaced: tuple[str, ...]


@with_secrets
def rotate() -> Rotation:
    """Seal all passwords under the newest key; those that no key opens stay unchanged.

    The passwords themselves do not change, so no worker is notified: workers with both keys open old and new tokens.
    Raises ``ImproperlyConfigured`` without usable keys.
    """
    fields.newest_key()
    found: dict[str, list[str]] = {
        "rotated": [],
        "current": [],
        "sealed": [],
        "unreadable": [],
        "misplaced": [],
        "none": [],
    }
    for pk in list(SMTPConfig.objects.values_list("pk", flat=True)):
        with transaction.atomic(using=SMTPConfig.objects.db):
            # One row at a time: a process that saves a new password meanwhile waits, or is waited for.
            config = SMTPConfig.objects.select_for_update().filter(pk=pk).first()
            if config is not None:
                found[_rotate(config)].append(config.name)
    del found["none"]
    found["unreadable"] += _rotate_families()
    return Rotation(**{kind: tuple(names) for kind, names in found.items()})


def _rotate(config: SMTPConfig) -> str:
    found = _all_sealed_anew(config)
    sealed = {name: anew for name, (_, anew) in found.items() if anew is not None}
    kinds = {kind for kind, _ in found.values()}
    # One word for all of them: the most important one for people.
    kind = next((word for word in ("misplaced", "unreadable", "sealed", "rotated", "current") if word in kinds), "none")
    if sealed:
        # Not update() of this app: no setting of the relay has changed.
        models.QuerySet(SMTPConfig, using=SMTPConfig.objects.db).filter(pk=config.pk).update(**sealed)
        note(config, Event.CHANGED, reason=_REASONS["sealed" if "sealed" in kinds else "rotated"])
    _rotate_token(config)
    return kind


def _rotate_token(config: SMTPConfig) -> None:
    """Seal the fetched token of the configuration again; one that no key opens is fetched again later."""
    rows = OAuthToken.objects.filter(pk=config.pk)
    for row in rows.select_for_update():
        sealed = {name: anew for name, (_, anew) in _all_sealed_anew(row).items() if anew is not None}
        if sealed:
            rows.update(**sealed)


@with_secrets
def _rotate_families() -> list[str]:
    """Seal the newest refresh tokens again, each of which may be the only copy; return those that no key opens."""
    unreadable = []
    for pk in list(RefreshFamily.objects.exclude(asked_at=None).values_list("pk", flat=True)):
        with transaction.atomic(using=RefreshFamily.objects.db):
            rows = RefreshFamily.objects.filter(pk=pk)
            for row in rows.select_for_update():
                for kind, anew in _all_sealed_anew(row).values():
                    if anew is not None:
                        rows.update(newest=anew)
                    elif kind != "current":
                        unreadable.append(f"refresh token {pk[:8]}")
    return unreadable


_REASONS = {
    "sealed": "the password was stored in plain text and is now encrypted",
    "rotated": "the password is now encrypted with the newest key",
}


@with_secrets
def _all_sealed_anew(row: models.Model) -> dict[str, tuple[str, fields.Sealed | None]]:
    """Return the result of ``_sealed_anew`` for each sealed field of ``row`` that is not empty."""
    return {
        name: _sealed_anew(stored, field.place_of(row))
        for name, field in sealed_fields(type(row)).items()
        if (stored := field.raw(row))
    }


@with_secrets
def _sealed_anew(stored: Any, place: fields.SecretPlace) -> tuple[str, fields.Sealed | None]:
    """Return the state of a stored secret, and its replacement; None for no replacement."""
    if not isinstance(stored, fields.Sealed):
        return "sealed", fields.seal(str(stored), place)
    try:
        plain = stored.open(place)
    except SecretMisplaced:
        return "misplaced", None
    except SecretUnreadable:
        return "unreadable", None
    try:
        fields.newest_key().decrypt(stored.token)
    except InvalidToken:
        return "rotated", fields.seal(plain, place)
    return "current", None
