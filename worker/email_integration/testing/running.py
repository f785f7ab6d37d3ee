"""Sending in the test's own process, without a worker, a broker or a commit."""

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

#: Mails that have ended and that something follows, taken at a time.
_AT_ONCE = 50


def run_deliveries(*, due_only: bool = True) -> list[Delivery]:
    """Do what workers would do now: try each delivery that is due once; return them as they stand then.

    It makes no difference whether the test's transaction is ever committed: signals are sent. Mail that is submitted
    meanwhile, by what follows a mail, is sent too. ``due_only=False`` lets the time pass first that waiting deliveries
    wait for. Mail goes to the ``FakeRelay`` that runs, else to one of its own that takes everything, and never to a
    real server.
    """
    tried: list[str] = []
    # Nothing is woken: what is submitted meanwhile is found in the database, and returned like the rest.
    with any_relay(), _eager(), mock.patch.object(task_queue, "notify_on_commit", _notify_nobody):
        while (found := _due(tried, due_only=due_only)) or _follow(tried):
            for delivery in found:
                tried.append(delivery.pk)
                with _committed():
                    send_inline(key_of(delivery), only=[delivery.pk])
    rows = Delivery.objects.in_bulk(tried)
    return [rows[delivery_id] for delivery_id in tried if delivery_id in rows]


@contextlib.contextmanager
def eager_mail() -> Iterator[FakeRelay]:
    """Celery's eager mode inside: ``send_email.delay()`` has sent the mail when it returns. Also a decorator.

    Neither waits for a commit, so that it works in a ``TestCase``, and a rollback takes nothing back. What is due
    later, or was put off, waits for ``run_deliveries``. Mail goes where it goes for ``run_deliveries``; the relay is
    what is given.
    """
    with any_relay() as relay, _eager(), mock.patch.object(task_queue, "notify_on_commit", _notify_now):
        yield relay


def _follow(tried: list[str]) -> bool:
    """Publish what follows mail that has ended without an attempt; False when there is none."""
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


def _notify_nobody(*deliveries: Delivery, using: str) -> None:
    pass


@contextlib.contextmanager
def _eager() -> Iterator[None]:
    """Run every task where it is called, and have each retry wait as long as it may."""
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
    """Do at the end of the block what its commit would set going, and leave nothing of it for a commit to come."""
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
