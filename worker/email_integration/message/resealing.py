"""Encrypt contents again with the newest of SMTP_PASSWORD_KEYS, so an old key can be removed."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from typing import Any

from django.db import transaction

from email_integration.exceptions import ContentGone, ContentUnavailable
from email_integration.models import Delivery
from email_integration.on_commit import after_commit
from email_integration.secrecy import with_secrets

from . import content, encryption

#: Rows whose seals one query reads.
BATCH = 1000


@dataclass(frozen=True, kw_only=True)
class Resealed:
    """The number of contents that were encrypted again, that already use the newest key, and that could not be read."""

    rotated: int
    current: int
    unreadable: int


@with_secrets
def reseal() -> Resealed:
    """Encrypt all contents that use an older key with the newest key. Contents that no key decrypts stay unchanged.

    Each content has its own transaction, and a content in a file gets a new file. An unencrypted content stays
    unencrypted. While both keys are configured, a mail that is being sent uses the content that was read; if its file
    was removed, the mail is tried again. Raises ``ImproperlyConfigured`` without usable keys.
    """
    newest = encryption.newest_key_id()
    rows = Delivery.objects.filter(has_content=True).exclude(content_seal="").order_by("pk")
    found: Counter[str] = Counter()
    last = ""
    while seals := list(rows.filter(pk__gt=last).values_list("pk", "content_seal")[:BATCH]):
        for pk, seal in seals:
            found["current" if encryption.key_id(seal) == newest else _resealed(pk)] += 1
        last = seals[-1][0]  # in the order of the database
    return Resealed(rotated=found["rotated"], current=found["current"], unreadable=found["unreadable"])


@with_secrets
def _resealed(pk: str) -> str:
    """Encrypt one content again. Return the key to count it under, or '' when the content no longer exists."""
    rows = Delivery.objects.filter(pk=pk)
    with transaction.atomic(using=rows.db):
        delivery = rows.select_for_update().first()
        if delivery is None:
            return ""
        stored = content.stored(delivery)
        try:
            seal, pieces = encryption.seal(stored.blocks(), content.place_of(delivery), size=stored.size)
            sealed = content.joined(pieces)
        except ContentGone:
            return ""
        except ContentUnavailable:
            return "unreadable"
        changes: dict[str, Any] = {"content_seal": seal, "content": sealed}
        if delivery.content_file:
            changes = {"content_seal": seal, "content_file": content.save_file(sealed)}
            if not changes["content_file"]:
                return "unreadable"  # the storage refuses files now
        try:
            rows.update(**changes)
        except Exception:
            content.remove_file(changes.get("content_file", ""))
            raise
        if delivery.content_file:
            forget = functools.partial(content.remove_file, delivery.content_file)
            after_commit("delete stored content", forget, using=rows.db)
    return "rotated"
