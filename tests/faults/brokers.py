"""A broker that dies, freezes, forgets, cuts connections, and delivers twice and late."""

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
    """Begin to submit, and wait until some have arrived and most have not."""
    run.world.smtp.slow = 0.02
    run.begin_submitting(mails, pause=0.02)
    run.wait(run.arrived(mails // 6), "some mails")
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
            run.wait(cut, "a connection to cut")  # some of those that were cut have come back
            time.sleep(0.1)
    run.finish_submitting()


def _woken_often(run: Run) -> None:
    run.world.smtp.slow = 0.05
    run.submit(20)
    for _ in range(3):
        run.wake_again()
    run.wait(run.is_over, "the end of all")
    run.world.smtp.slow = 0.0


def _woken_late(run: Run) -> None:
    run.submit(10)
    run.wait(run.is_over, "the end of all")

    def heard() -> int:
        return len(re.findall(r"tasks\.dispatch\[[^]]*\] succeeded", run.world.logs()))

    before = heard()
    run.wake_again()
    run.wait(lambda: heard() >= before + 10, "the wake-ups to be heard")


def _piled_up(run: Run) -> None:
    """No worker takes anything for a while: one message is published for 2 seconds, and each sweep may add one."""

    def stand_still() -> bool:
        """Stop them, unless one of them would keep the application from writing."""
        for worker in run.world.workers:
            os.killpg(worker.pid, signal.SIGSTOP)
        if not run.world.sqlite.is_locked:
            return True
        for worker in run.world.workers:
            os.killpg(worker.pid, signal.SIGCONT)
        return False

    run.wait(stand_still, "workers in no transaction")
    with redis.Redis.from_url(run.world.valkey.url) as broker:
        left = broker.llen("mail")  # of the case before
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
    usual = run.submit(100, atomic=True)  # which leaves a connection open
    run.wait(run.is_over, "the end of all")
    run.world.valkey.freeze()
    took = run.submit(100, atomic=True)
    # The rows alone take their time. Ten times what it may wait for the broker; once for each mail would be a hundred.
    run.remark(f"submitting took {took:.1f} s, and {usual:.1f} s otherwise")
    run.promise(took - usual <= 10, f"submitting took {took - usual:.1f} s longer")
    run.world.valkey.thaw()


CASES = [
    Case(group="broker", name=name, setting=_SETTING, act=act, slow=slow)
    for name, act, slow in (
        ("killed, and back empty", _killed, False),
        ("emptied three times", _emptied, False),
        ("frozen and thawed", _frozen, True),
        ("all connections cut", _cut, False),
        ("many wake-ups for each mail", _woken_often, False),
        ("wake-ups for what is finished", _woken_late, False),
        ("300 mails while no worker takes anything", _piled_up, False),
        ("half open for 100 mails at once", _half_open, False),
    )
]
