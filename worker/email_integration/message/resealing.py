"""Sealing contents anew under the newest of SMTP_PASSWORD_KEYS, so that an old one can be given up."""

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

#: How many rows are asked at a time how they are sealed.
BATCH = 1000


@dataclass(frozen=True, kw_only=True)
class Resealed:
    """How many contents were sealed anew, were sealed with the newest key already, and could not be sealed anew."""

    rotated: int
    current: int
    unreadable: int


@with_secrets
def reseal() -> Resealed:
    """Seal all contents that have another key than the newest with that one; those that no key opens are left alone.

    Each is done in a transaction of its own, and one in a file gets a new file. What is not sealed stays so. A mail
    that is sent meanwhile is sent as it was read, while both keys are configured; one whose file has just gone is tried
    again. Raises ``ImproperlyConfigured`` without usable keys.
    """
    newest = encryption.newest_key_id()
    rows = Delivery.objects.filter(has_content=True).exclude(content_seal="").order_by("pk")
    found: Counter[str] = Counter()
    last = ""
    while seals := list(rows.filter(pk__gt=last).values_list("pk", "content_seal")[:BATCH]):
        for pk, seal in seals:
            found["current" if encryption.key_id(seal) == newest else _resealed(pk)] += 1
        last = seals[-1][0]  # as the database orders them
    return Resealed(rotated=found["rotated"], current=found["current"], unreadable=found["unreadable"])


@with_secrets
def _resealed(pk: str) -> str:
    """Seal one content anew; return what came of it, '' when there is none any more."""
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
                return "unreadable"  # the storage takes none now
        try:
            rows.update(**changes)
        except Exception:
            content.remove_file(changes.get("content_file", ""))
            raise
        if delivery.content_file:
            forget = functools.partial(content.remove_file, delivery.content_file)
            after_commit("delete a content", forget, using=rows.db)
    return "rotated"
