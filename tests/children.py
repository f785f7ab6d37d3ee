"""Processes that a test forks, and has stop or die at a named point of a mail's way."""

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

#: The points, in the order in which a mail comes to them.
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
    """A process that runs ``act``, with the tests' settings and on their database, and ends."""

    def __init__(self, act: Callable[[], object], *, hook: Callable[..., object] | None = None) -> None:
        """``hook`` is called in the child with the name of each point that it reaches, and the ids of the mails."""
        # What is open here must not be used by two processes.
        pool.close()
        own_journal.close()
        connections.close_all()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads: none of them holds a lock of ours
            self.pid = os.fork()
        if not self.pid:
            _run(act, hook)
        self._status: int | None = None

    def stopped(self) -> None:
        """Wait until it has stopped itself."""
        status = self._wait(os.WUNTRACED)
        assert os.WIFSTOPPED(status), f"it has ended: {status}"

    def go_on(self) -> None:
        """Have it continue."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it as nothing else does, wherever it is."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.ended()

    def killed(self) -> None:
        """Wait for its end, which was a SIGKILL."""
        assert self.ended() == -signal.SIGKILL

    def ended(self) -> int:
        """Wait for its end, and return the code, or the number of the signal as a negative one."""
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
        recovery._looked_at = time.monotonic() + PATIENCE  # it recovers what others left only when it is told to
        act()
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def mails(number: int, **how: Any) -> list[str]:
    """The ids of so many new ones, to a recipient each and with its number as the subject; due in this order."""
    made = [submitted(f"kim{place}@example.com", subject=str(place), **how) for place in range(number)]
    return [pretend(one, next_at=ago(number - place)).pk for place, one in enumerate(made)]


def send() -> dict[str, int]:
    """Send what is due, until nothing is: a busy machine may take more than the time of one dispatcher."""
    sent: Counter[str] = Counter()
    while some := dispatch(queue_of("normal")):
        sent.update(some)
    return dict(sent)


def at(point: str, act: Callable[[], object], *, of: str = "", time_: int = 1) -> Callable[..., object]:
    """A hook that calls ``act`` when the delivery ``of`` comes to the point for this time; any if none is named."""
    left = [time_]

    def hook(name: str, *ids: str) -> None:
        if name == point and (not of or of in ids):
            left[0] -= 1
            if left[0] == 0:
                act()

    return hook


def die() -> None:
    """End this process as nothing else does."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(PATIENCE)  # the signal ends this thread too


def stop() -> None:
    """Stop this process, until ``Child.go_on``: this thread at once, and the others with it."""
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def recover() -> None:
    """Recover by the journals of the dead."""
    recovery.recover_journals()


def recover_by_lease() -> None:
    """Have the leases of all batches be over for long, without waiting for it, and recover by that."""
    DeliveryBatch.objects.update(lease_until=ago(60))
    recovery.recover_leases()
    DeliveryBatch.objects.exclude(suspected_at=None).update(suspected_at=ago(60))
    recovery.recover_leases()


def forget_journals(folder: Path) -> None:
    """Have them gone, as those of another host are."""
    for file in folder.glob("*.journal"):
        file.unlink()


def due_now() -> None:
    """Have whatever waits for its time be due."""
    Delivery.objects.filter(next_at__isnull=False).update(due_at=ago(1), next_at=ago(1))


def require_settled() -> None:
    """Fail when a delivery, or a batch, is in the hands of a process."""
    assert not Delivery.objects.exclude(batch="").exists()
    assert not DeliveryBatch.objects.exclude(owner="").exists()


def delivery_statuses(*ids: str) -> list[str]:
    """The status of each, in this order; of all where none is named."""
    found = dict(Delivery.objects.order_by("pk").values_list("pk", "status"))
    return [found[pk] for pk in ids or found]


@contextlib.contextmanager
def hooked(hook: Callable[..., Any]) -> Any:
    """Have the points of this process call the hook."""
    points.hook = hook
    try:
        yield
    finally:
        points.hook = None
