"""A broker that dies, freezes, loses messages, cuts connections, and delivers twice and late."""

from __future__ import annotations

import os
import re
import signal
import time

import redis

from .cases import Case, Run
from .world import Setting

_SETTING = Setting()


def _amid_load(run: Run, mails: int = 60) -> None:
    """Begin to submit, and wait until some mails have arrived and most have not."""
    run.world.smtp.slow = 0.02
    run.begin_submitting(mails, pause=0.02)
    run.wait(run.arrived(mails // 6), "the first mails")
    run.world.smtp.slow = 0.0


def _killed(run: Run) -> None:
    _amid_load(run)
    run.world.valkey.kill()
    run.finish_submitting()
    run.world.valkey.start()


def _emptied(run: Run) -> None:
    _amid_load(run)
    for _ in range(3):
        run.world.valkey.flush()
        before = run.world.smtp.total
        run.wait(lambda before=before: run.world.smtp.total > before or run.is_over(), "another mail")  # type: ignore[misc]
    run.finish_submitting()


def _frozen(run: Run) -> None:
    _amid_load(run)
    run.world.valkey.freeze()
    run.finish_submitting()
    run.world.valkey.thaw()


def _cut(run: Run) -> None:
    _amid_load(run)
    with redis.Redis.from_url(run.world.valkey.url) as broker:

        def cut() -> int:
            return sum(int(broker.execute_command("CLIENT", "KILL", "TYPE", kind)) for kind in ("normal", "pubsub"))

        for _ in range(5):
            run.wait(cut, "a connection to cut")  # some of the cut connections have been opened again
            time.sleep(0.1)
    run.finish_submitting()


def _woken_often(run: Run) -> None:
    run.world.smtp.slow = 0.05
    run.submit(20)
    for _ in range(3):
        run.wake_again()
    run.wait(run.is_over, "all mails finished")
    run.world.smtp.slow = 0.0


def _woken_late(run: Run) -> None:
    run.submit(10)
    run.wait(run.is_over, "all mails finished")

    def heard() -> int:
        return len(re.findall(r"tasks\.dispatch\[[^]]*\] succeeded", run.world.logs()))

    before = heard()
    run.wake_again()
    run.wait(lambda: heard() >= before + 10, "all wake-ups handled")


def _piled_up(run: Run) -> None:
    """Stop all workers for a while: one message is published every 2 seconds, and each sweep may add one."""

    def stand_still() -> bool:
        """Stop the workers, unless one of them blocks the application's writes."""
        for worker in run.world.workers:
            os.killpg(worker.pid, signal.SIGSTOP)
        if not run.world.sqlite.is_locked:
            return True
        for worker in run.world.workers:
            os.killpg(worker.pid, signal.SIGCONT)
        return False

    run.wait(stand_still, "workers without a transaction")
    with redis.Redis.from_url(run.world.valkey.url) as broker:
        left = broker.llen("mail")  # from the case before
    began = time.monotonic()
    run.submit(300)
    seconds = time.monotonic() - began
    with redis.Redis.from_url(run.world.valkey.url) as broker:
        waiting = broker.llen("mail") - left
    for worker in run.world.workers:
        os.killpg(worker.pid, signal.SIGCONT)
    run.remark(f"{waiting} wake-ups for 300 mails in {seconds:.1f} s")
    run.promise(waiting <= 2 + seconds, f"{waiting} wake-ups for 300 mails in {seconds:.1f} s")


def _half_open(run: Run) -> None:
    usual = run.submit(100, atomic=True)  # this leaves a connection open
    run.wait(run.is_over, "all mails finished")
    run.world.valkey.freeze()
    took = run.submit(100, atomic=True)
    # Storing the rows takes time too. The limit is ten waits for the broker; a wait for each mail would take a hundred.
    run.remark(f"submitting took {took:.1f} s, and {usual:.1f} s with a working broker")
    run.promise(took - usual <= 10, f"submitting took {took - usual:.1f} s longer than with a working broker")
    run.world.valkey.thaw()


CASES = [
    Case(group="broker", name=name, setting=_SETTING, act=act, slow=slow)
    for name, act, slow in (
        ("killed, and restarted empty", _killed, False),
        ("emptied three times", _emptied, False),
        ("frozen, and then continued", _frozen, True),
        ("all connections cut", _cut, False),
        ("many wake-ups for each mail", _woken_often, False),
        ("wake-ups for finished mails", _woken_late, False),
        ("300 mails while all workers are stopped", _piled_up, False),
        ("no replies while 100 mails are submitted", _half_open, False),
    )
]
