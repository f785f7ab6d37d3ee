"""Processes that a test forks, and that stop or die at a named point of the sending."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from django.db import connections

from config.local.processes import PATIENCE
from email_integration.ledger.queues import queue_of
from email_integration.models import Delivery, DeliveryBatch
from email_integration.sending import own_journal, points, recovery
from email_integration.sending.dispatcher import dispatch
from email_integration.sending.sessions import pool
from tests.deliveries import ago, pretend, submitted

#: The points, in the order in which a mail reaches them.
POINTS = (
    "claimed",
    "in hand",
    "before a session",
    "before it is read",
    "before MAIL",
    "before the content",
    "before the dot",
    "dot noted",
    "answered",
    "answer noted",
    "before the record",
    "recorded",
)


class Child:
    """A forked process that runs ``act`` with the tests' settings and database, and ends."""

    def __init__(self, act: Callable[[], object], *, hook: Callable[..., object] | None = None) -> None:
        """Fork. The child calls ``hook`` with the name of each point that it reaches, and the ids of the mails."""
        # Two processes must not share open connections.
        pool.close()
        own_journal.close()
        connections.close_all()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # about threads: none of them holds a lock of ours
            self.pid = os.fork()
        if not self.pid:
            _run(act, hook)
        self._status: int | None = None

    def stopped(self) -> None:
        """Wait until it has stopped itself."""
        status = self._wait(os.WUNTRACED)
        assert os.WIFSTOPPED(status), f"the process has ended: {status}"

    def go_on(self) -> None:
        """Let it continue."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill it with SIGKILL, at whatever point it is."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.ended()

    def killed(self) -> None:
        """Wait for its end by SIGKILL."""
        assert self.ended() == -signal.SIGKILL

    def ended(self) -> int:
        """Wait for its end, and return the exit code, or the negative number of the signal."""
        if self._status is None:
            self._status = self._wait(0)
        return os.waitstatus_to_exitcode(self._status)

    def _wait(self, options: int) -> int:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            pid, status = os.waitpid(self.pid, os.WNOHANG | options)
            if pid:
                return status
            time.sleep(0.002)
        raise AssertionError("the process neither stops nor ends")


def _run(act: Callable[[], object], hook: Callable[..., object] | None) -> NoReturn:
    code = 1
    try:
        points.hook = hook
        recovery._looked_at = time.monotonic() + PATIENCE  # no automatic recovery; the test starts it
        act()
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def mails(number: int, **how: Any) -> list[str]:
    """Submit ``number`` mails, due in this order, and return their ids.

    Each has one recipient, and its number as subject.
    """
    made = [submitted(f"kim{place}@example.com", subject=str(place), **how) for place in range(number)]
    return [pretend(one, next_at=ago(number - place)).pk for place, one in enumerate(made)]


def send() -> dict[str, int]:
    """Send until no mail is due, because a busy machine may need more time than one dispatcher has."""
    sent: Counter[str] = Counter()
    while some := dispatch(queue_of("normal")):
        sent.update(some)
    return dict(sent)


def at(point: str, act: Callable[[], object], *, of: str = "", time_: int = 1) -> Callable[..., object]:
    """Return a hook that calls ``act`` when the delivery ``of``, or any, reaches the point the ``time_``-th time."""
    left = [time_]

    def hook(name: str, *ids: str) -> None:
        if name == point and (not of or of in ids):
            left[0] -= 1
            if left[0] == 0:
                act()

    return hook


def die() -> None:
    """End this process by SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(PATIENCE)  # the signal ends this thread too


def stop() -> None:
    """Stop this process until ``Child.go_on``: first this thread, then the others."""
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def recover() -> None:
    """Recover by the journals of dead processes."""
    recovery.recover_journals()


def recover_by_lease() -> None:
    """Recover by leases, after setting the leases of all batches back so that they have expired."""
    DeliveryBatch.objects.update(lease_until=ago(60))
    recovery.recover_leases()
    DeliveryBatch.objects.exclude(suspected_at=None).update(suspected_at=ago(60))
    recovery.recover_leases()


def forget_journals(folder: Path) -> None:
    """Delete the journals, as if they were those of another host."""
    for file in folder.glob("*.journal"):
        file.unlink()


def due_now() -> None:
    """Make all waiting mail due."""
    Delivery.objects.filter(next_at__isnull=False).update(due_at=ago(1), next_at=ago(1))


def require_settled() -> None:
    """Fail if a process still has a claim on a delivery or a batch."""
    assert not Delivery.objects.exclude(batch="").exists()
    assert not DeliveryBatch.objects.exclude(owner="").exists()


def delivery_statuses(*ids: str) -> list[str]:
    """Return the status of each delivery, in this order, or of all deliveries if none is named."""
    found = dict(Delivery.objects.order_by("pk").values_list("pk", "status"))
    return [found[pk] for pk in ids or found]


@contextlib.contextmanager
def hooked(hook: Callable[..., Any]) -> Any:
    """Call ``hook`` at the points of this process while the block runs."""
    points.hook = hook
    try:
        yield
    finally:
        points.hook = None
