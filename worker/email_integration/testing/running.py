"""Send mail in the test's process, without a worker, a broker or a commit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

from django.db import transaction
from django.test import TestCase

from email_integration.django_internals import waiting_for_commit
from email_integration.ledger import continuation, task_queue, transitions
from email_integration.ledger.queues import key_of
from email_integration.ledger.rows import database
from email_integration.models import DatabaseTime, Delivery
from email_integration.queue import continuing
from email_integration.routing import breaker
from email_integration.sending import recording
from email_integration.sending.dispatcher import send_inline
from email_integration.tasks import send_email

from .relay import FakeRelay, any_relay

#: Finished mails with a continuation that are taken at once.
_AT_ONCE = 50


def run_deliveries(*, due_only: bool = True) -> list[Delivery]:
    """Do the current work of the workers: try each due delivery once. Return the deliveries in their new state.

    It works whether or not the test's transaction is ever committed, and signals are sent. Mail that is submitted
    meanwhile by a continuation is sent too. ``due_only=False`` first advances the time that waiting deliveries wait
    for. Mail goes to the running ``FakeRelay``, or to a temporary one that accepts everything, and never to a real
    server.
    """
    tried: list[str] = []
    # No worker is woken: mail that is submitted meanwhile is found in the database, and returned like the rest.
    with any_relay(), _eager(), mock.patch.object(task_queue, "notify_on_commit", _notify_no_worker):
        while (found := _due(tried, due_only=due_only)) or _follow(tried):
            for delivery in found:
                tried.append(delivery.pk)
                with _committed():
                    send_inline(key_of(delivery), only=[delivery.pk])
    rows = Delivery.objects.in_bulk(tried)
    return [rows[delivery_id] for delivery_id in tried if delivery_id in rows]


@contextlib.contextmanager
def eager_mail() -> Iterator[FakeRelay]:
    """Use Celery's eager mode in the block: ``send_email.delay()`` returns after the mail is sent. Also a decorator.

    Sending does not wait for a commit, so it works in a ``TestCase``, and a rollback does not undo it. Mail that is due
    later, or was deferred, waits for ``run_deliveries``. Mail goes to the same relay as in ``run_deliveries``; the
    context manager yields that relay.
    """
    with any_relay() as relay, _eager(), mock.patch.object(task_queue, "notify_on_commit", _notify_now):
        yield relay


def _follow(tried: list[str]) -> bool:
    """Publish the continuations of mail that ended without an attempt. Return False when there are none."""
    ended = continuation.take_due(_AT_ONCE)
    for delivery in ended:
        tried.append(delivery.pk)
        with _committed():
            continuing.publish(delivery)
    return bool(ended)


def _notify_now(*deliveries: Delivery, using: str) -> None:
    with _committed():
        for delivery in deliveries:
            send_inline(key_of(delivery), only=[delivery.pk])


def _notify_no_worker(*deliveries: Delivery, using: str) -> None:
    pass


@contextlib.contextmanager
def _eager() -> Iterator[None]:
    """Run every task where it is called, and make each retry wait as long as possible."""
    celery_conf = send_email.app.conf
    before = celery_conf.task_always_eager
    celery_conf.task_always_eager = True
    try:
        with mock.patch.object(recording, "chance", return_value=1.0):
            yield
    finally:
        celery_conf.task_always_eager = before


@contextlib.contextmanager
def _committed() -> Iterator[None]:
    """Run the on-commit hooks of the block at its end, and remove them from the surrounding transaction."""
    using = database()
    connection = transaction.get_connection(using)
    before = len(waiting_for_commit(connection))
    with TestCase.captureOnCommitCallbacks(using=using, execute=True):
        yield
    del waiting_for_commit(connection)[before:]


def _due(tried: list[str], *, due_only: bool) -> list[Delivery]:
    rows = Delivery.objects.filter(next_at__isnull=False).exclude(pk__in=tried)
    if not due_only:
        breaker.reset_all()
        rows.filter(status__in=transitions.CLAIMABLE).update(due_at=DatabaseTime(), next_at=DatabaseTime())
    due = rows.filter(next_at__lte=DatabaseTime())
    return list(due.order_by("created_at", "pk").only("queue", "priority"))
