"""Encrypt contents and subjects again with the newest of SMTP_PASSWORD_KEYS, so an old key can be removed."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import transaction

from email_integration.django_internals import can_skip_locked_rows
from email_integration.exceptions import ContentGone, ContentUnavailable
from email_integration.models import Delivery
from email_integration.on_commit import after_commit
from email_integration.secrecy import with_secrets

from . import content, encryption, sealed_subjects

#: Rows whose seals one query reads.
BATCH = 1000

#: How often, and after how many seconds, a mail that was being sent is tried again.
TRIES, PAUSE = 60, 1.0

#: How a content or a subject is counted that stays as it is because its mail is being sent.
_CLAIMED = "claimed"


@dataclass(frozen=True, kw_only=True)
class Resealed:
    """The number of contents that were encrypted again, that already use the newest key, and that could not be read."""

    rotated: int
    current: int
    unreadable: int
    #: Subjects that were encrypted again, and that could not be read.
    subjects_rotated: int
    subjects_unreadable: int
    #: Contents and subjects of mails that were being sent all the time.
    claimed: int


@with_secrets
def reseal() -> Resealed:
    """Encrypt all contents and subjects that use an older key with the newest key.

    Contents and subjects that no key decrypts stay unchanged. Each content has its own transaction, and a content in a
    file gets a new file; subjects share a transaction in batches. An unencrypted content stays unencrypted. A mail that
    is being sent is changed afterwards: the process that sends it would write the old seal again, which does not fit
    the new content. Raises ``ImproperlyConfigured`` without usable keys.
    """
    newest = encryption.newest_key_id()
    contents, subjects = Counter[str](), Counter[str]()
    claimed: list[tuple[Counter[str], Callable[[str], str], str]] = []
    sealed = Delivery.objects.filter(has_content=True).exclude(content_seal="")
    for stored in _in_batches(sealed, "content_seal"):
        for pk, seal in stored:
            kind = "current" if encryption.key_id(seal) == newest else _resealed(pk)
            contents[kind] += 1
            claimed += [(contents, _resealed, pk)] if kind == _CLAIMED else []
    # The subjects of accepted mail outlive its contents, so most of them have no content any more.
    for stored in _in_batches(Delivery.objects.exclude(subject=""), "subject"):
        older = [pk for pk, text in stored if encryption.key_id(sealed_subjects.seal_of(text)) not in (newest, "")]
        kinds = _subjects_resealed(older)
        subjects.update(kinds.values())
        claimed += [(subjects, _subject_resealed, pk) for pk, kind in kinds.items() if kind == _CLAIMED]
    for _ in range(TRIES):
        if not claimed:
            break
        time.sleep(PAUSE)
        claimed = [(count, again, pk) for count, again, pk in claimed if not _is_done(count, again(pk))]
    return Resealed(
        rotated=contents["rotated"],
        current=contents["current"],
        unreadable=contents["unreadable"],
        subjects_rotated=subjects["rotated"],
        subjects_unreadable=subjects["unreadable"],
        claimed=contents[_CLAIMED] + subjects[_CLAIMED],
    )


def _is_done(count: Counter[str], kind: str) -> bool:
    """Return whether a mail that was being sent is counted as ``kind`` now."""
    count[_CLAIMED] -= 1
    count[kind] += 1
    return kind != _CLAIMED


def _in_batches(rows: Any, column: str) -> Iterator[list[tuple[str, str]]]:
    """Yield pairs of the id and ``column`` of all ``rows``."""
    last = ""
    while found := list(rows.order_by("pk").filter(pk__gt=last).values_list("pk", column)[:BATCH]):
        yield found
        last = found[-1][0]  # in the order of the database


def _subjects_resealed(ids: Sequence[str]) -> dict[str, str]:
    """Encrypt subjects again in one transaction. Return the key to count each under.

    Rows that other transactions have locked are left for later: waiting for one while others are locked is a deadlock.
    """
    rows = Delivery.objects.filter(pk__in=ids, batch="").exclude(subject="").only("pk", "subject")
    with transaction.atomic(using=rows.db):
        if can_skip_locked_rows(transaction.get_connection(rows.db)):
            rows = rows.select_for_update(skip_locked=True)
        return dict.fromkeys(ids, _CLAIMED) | {row.pk: _with_subject_resealed(row) for row in rows}


def _subject_resealed(pk: str) -> str:
    """Encrypt one subject again. Return the key to count it under, or '' when it was erased meanwhile."""
    row = Delivery.objects.only("pk", "subject").filter(pk=pk).exclude(subject="").first()
    return "" if row is None else _with_subject_resealed(row)


@with_secrets
def _with_subject_resealed(row: Delivery) -> str:
    try:
        sealed = sealed_subjects.sealed(row.pk, sealed_subjects.opened(row.pk, row.subject))
    except (encryption.Damaged, encryption.Misplaced, encryption.NoKey):
        return "unreadable"
    unclaimed = Delivery.objects.filter(pk=row.pk, subject=row.subject, batch="")
    return "rotated" if unclaimed.update(subject=sealed) else _CLAIMED


@with_secrets
def _resealed(pk: str) -> str:
    """Encrypt one content again. Return the key to count it under, or '' when the content no longer exists."""
    rows = Delivery.objects.filter(pk=pk)
    with transaction.atomic(using=rows.db):
        delivery = rows.select_for_update().first()
        if delivery is None:
            return ""
        if delivery.batch:
            return _CLAIMED
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
