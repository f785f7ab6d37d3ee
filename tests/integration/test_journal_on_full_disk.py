"""A process whose journal can no longer be written continues without it. After a kill, its journal proves nothing."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any, NoReturn

import pytest

from email_integration.models import DeliveryBatch
from email_integration.sending import own_journal
from email_integration.sending.journal.files import JournalFile
from tests.children import Child, at, delivery_statuses, die, mails, recover, recover_by_lease, require_settled, send
from tests.deliveries import RecordingTaskQueue
from tests.relays import config_for

pytestmark = pytest.mark.django_db(transaction=True)


def _full(*arguments: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("before", ["claimed", "before the dot"])
def test_what_is_sent_without_the_journal_is_in_doubt(
    smtp_server: Any, journals: Path, task_queue: RecordingTaskQueue, settings: Any, before: str
) -> None:
    """A journal with a header · the disk is full · the mails that were claimed with the journal go back and are claimed
    without it · killed at a reply · the journal is recovered and gives nothing back · the lease ends · in doubt, and
    not sent twice.
    """
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SESSIONS": 1, "IN_DOUBT": "hold"}
    server = smtp_server(security="plain", user=None)
    config_for(server)
    ids = mails(3)

    def hook(name: str, *of: str) -> None:
        if name == before:
            JournalFile.write = _full  # type: ignore[method-assign]  # of the child alone
        killing(name, *of)

    killing = at("answered", die)
    Child(send, hook=hook).killed()
    assert len(server.messages) == 1

    recover()
    assert DeliveryBatch.objects.exists(), "the mail has an entry in the journal"
    recover_by_lease()

    require_settled()
    assert "in_doubt" in delivery_statuses(*ids)
    send()
    assert len({one.subject for one in server.messages}) == len(server.messages)
    assert not set(delivery_statuses(*ids)) - {"accepted", "in_doubt"}


def test_each_journal_has_a_name_of_its_own(journals: Path) -> None:
    """A cleaner of temporary folders removes a journal: the next journal has no notes of the removed one."""
    own_journal._forget()  # forget that there may have been no journal a moment ago
    first = own_journal.opened()
    assert first is not None
    first.path.unlink()
    second = own_journal.opened()
    assert second is not None
    names = {own_journal.owner(first), own_journal.owner(second), own_journal.owner(None)}
    assert len(names) == 3
    first.close()
