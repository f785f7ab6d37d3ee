"""Sealing every stored password anew, so that an old key can be given up."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.fernet import InvalidToken
from django.db import models, router, transaction

from email_integration import fields
from email_integration.exceptions import SecretUnreadable

from .audit import Event, note
from .config import SMTPConfig


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """What became of the passwords, by the names of their configurations."""

    rotated: tuple[str, ...]
    current: tuple[str, ...]
    #: Found in plain text, as something else had written them, and sealed.
    sealed: tuple[str, ...]
    unreadable: tuple[str, ...]


def rotate() -> Rotation:
    """Seal all passwords under the newest key; those that no key opens are left alone.

    The passwords stay what they are, so no worker need be told: those that have both keys open old and new tokens.
    Raises ``ImproperlyConfigured`` without usable keys.
    """
    fields.newest_key()
    using = router.db_for_write(SMTPConfig)
    found: dict[str, list[str]] = {"rotated": [], "current": [], "sealed": [], "unreadable": [], "none": []}
    for pk in list(SMTPConfig.objects.using(using).values_list("pk", flat=True)):
        with transaction.atomic(using=using):
            # One row at a time: whoever saves a new password meanwhile waits, or is waited for.
            config = SMTPConfig.objects.using(using).select_for_update().filter(pk=pk).first()
            if config is not None:
                found[_rotate(config, using)].append(config.name)
    del found["none"]
    return Rotation(**{kind: tuple(names) for kind, names in found.items()})


def _rotate(config: SMTPConfig, using: str) -> str:
    stored = config.sealed_password
    if not stored:
        return "none"
    if not isinstance(stored, fields.Sealed):
        return _write(config, using, str(stored), "sealed", "the password was in plain text and is sealed now")
    try:
        fields.newest_key().decrypt(stored.token)
    except InvalidToken:
        try:
            return _write(config, using, stored.open(), "rotated", "the password is sealed under the newest key")
        except SecretUnreadable:
            return "unreadable"
    return "current"


def _write(config: SMTPConfig, using: str, plain: str, kind: str, reason: str) -> str:
    # Not update() of this app: nothing that mail goes by has changed.
    models.QuerySet(SMTPConfig, using=using).filter(pk=config.pk).update(password=fields.seal(plain))
    note(config, Event.CHANGED, reason=reason)
    return kind
