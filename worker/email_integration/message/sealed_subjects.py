"""Store and read the subjects of mails, which lists and pages show: sealed like contents, each for its own row.

A subject stays when the content of an accepted mail is dropped. It is deleted with its row, and erased with a person.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

from email_integration import conf
from email_integration.models import Delivery
from email_integration.secrecy import with_secrets

from . import encryption

#: Characters of a subject that are stored.
LONGEST = 1_000

#: Divides the seal from the text. The seal is empty if ENCRYPT_CONTENT is off.
_AFTER_SEAL = ":"

_LABEL = Delivery._meta.label_lower


@with_secrets
def store(delivery: Delivery, subject: str) -> None:
    """Put ``subject`` into the field of ``delivery``, which is not saved yet. An empty subject stays empty.

    Raises ``ImproperlyConfigured`` when it must be encrypted and there is no key.
    """
    text = subject[:LONGEST].replace("\0", "").encode("utf-8", "replace")
    if not text:
        delivery.subject = ""
    elif conf.get("ENCRYPT_CONTENT"):
        delivery.subject = sealed(delivery.pk, text)
    else:
        delivery.subject = f"{_AFTER_SEAL}{text.decode()}"


@with_secrets
def sealed(delivery_id: str, text: bytes) -> str:
    """Return the field with ``text`` encrypted under the newest key. Raises ``ImproperlyConfigured`` without keys."""
    seal, pieces = encryption.seal((text,), _place(delivery_id), size=len(text))
    return f"{seal}{_AFTER_SEAL}{base64.b64encode(b''.join(pieces)).decode()}"


@with_secrets
def of(delivery: Delivery) -> str:
    """Return the stored subject; '' when there is none, or when it cannot be decrypted."""
    return _shown(delivery.pk, delivery.subject)


@with_secrets
def opened(delivery_id: str, stored: str) -> bytes:
    """Return the octets of a stored subject. Raises ``Damaged``, ``Misplaced`` and ``NoKey`` of ``encryption``."""
    seal, _, text = stored.partition(_AFTER_SEAL)
    if not seal:
        return text.encode("utf-8", "replace")
    try:
        piece = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise encryption.Damaged from None
    return encryption.unseal_first(seal, _place(delivery_id), piece, last=True)


def seal_of(stored: str) -> str:
    """Return the seal of a stored subject; '' when it is empty or not encrypted."""
    return stored.partition(_AFTER_SEAL)[0]


@with_secrets
def containing(words: str, found: Iterable[tuple[str, str]]) -> list[str]:
    """Return the ids whose subject contains ``words`` in any case. ``found`` has pairs of id and stored subject."""
    wanted = words.casefold()
    return [pk for pk, stored in found if wanted in _shown(pk, stored).casefold()]


def _shown(delivery_id: str, stored: str) -> str:
    try:
        return opened(delivery_id, stored).decode("utf-8", "replace")
    except (encryption.Damaged, encryption.Misplaced, encryption.NoKey):
        return ""


def _place(delivery_id: str) -> encryption.ContentPlace:
    return encryption.ContentPlace(_LABEL, "subject", delivery_id)
