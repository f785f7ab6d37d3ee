"""Contents that are written into their rows in pieces equal the submitted ones, or there is no row."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction

from email_integration.ledger import inserting, large_contents
from email_integration.message.options import MailOptions
from email_integration.models import Delivery
from email_integration.queue.submission import build_delivery
from tests.deliveries import mail

pytestmark = pytest.mark.django_db

CONTENT = bytes(range(256)) * 5


@pytest.fixture(autouse=True)
def _small(db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(large_contents, "LARGE", 100)
    monkeypatch.setattr(large_contents, "_PIECE", 256)
    yield
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_largeobject_metadata")
            assert cursor.fetchone() == (0,)  # none is left behind


def unsaved(pk: str, content: Any) -> Delivery:
    """Return an unsaved delivery with this key and these octets as its content."""
    delivery = build_delivery(mail(), MailOptions(), delivery_id=pk)
    delivery.content = content
    return delivery


def stored() -> dict[str, bytes]:
    return {pk: bytes(content) for pk, content in Delivery.objects.values_list("pk", "content")}


@pytest.mark.parametrize("size", [99, 100, 101, 256, 257, 512, 1280])
def test_a_large_content_is_stored_unchanged(size: int) -> None:
    one = unsaved("one", content=CONTENT[:size])
    assert inserting.insert(one, using="default") == 1
    assert stored() == {"one": CONTENT[:size]}
    assert one.content == CONTENT[:size]
    assert not one._state.adding


def test_large_and_small_ones_together() -> None:
    contents = {"a": CONTENT, "b": b"small", "c": CONTENT[::-1], "d": b""}
    assert inserting.insert(*(unsaved(pk, content=content) for pk, content in contents.items()), using="default") == 4
    assert stored() == contents


def test_a_known_mail_keeps_its_content() -> None:
    inserting.insert(unsaved("one", content=CONTENT), using="default")
    again = unsaved("one", content=CONTENT[::-1])
    assert inserting.insert(again, unsaved("two", content=CONTENT), using="default", unless_known=True) == 1
    assert stored() == {"one": CONTENT, "two": CONTENT}


def test_all_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: Any) -> Any:
        yield 0, CONTENT[:256]
        raise DatabaseError("disk full")

    monkeypatch.setattr(large_contents, "_pieces", broken)
    if connection.vendor == "mysql":
        return  # no pieces here: the content is in the INSERT
    with transaction.atomic(), pytest.raises(DatabaseError), transaction.atomic():
        inserting.insert(unsaved("one", content=CONTENT), using="default")
    assert stored() == {}


def test_a_view_of_octets() -> None:
    inserting.insert(unsaved("one", content=memoryview(io.BytesIO(CONTENT).getbuffer())), using="default")
    assert stored() == {"one": CONTENT}
