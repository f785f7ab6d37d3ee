"""A thousand mails, and ``kill -9`` of a pool process or a whole worker every second until all are finished."""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from .cases import Case, Run
from .world import Setting

#: Greatest average of the seconds between two sweeps, although beat requests three a second.
_SWEEP_EVERY = 3

#: Most seconds from the last kill until all mails are finished.
_SETTLED_IN = 10

#: Enough mails to keep the workers busy while some are killed.
_MANY = 1000


def _storm(mails: int, seed: int, *, bulk: bool = False) -> Callable[[Run], None]:
    def act(run: Run) -> None:
        chance = random.Random(seed)
        over = threading.Event()
        # Long enough that most killed processes have a mail in progress, and that few mails last as long as many.
        run.world.smtp.slow = 0.1 if mails >= _MANY else 0.3
        killers = threading.Thread(target=_kill, args=(run, chance, over))
        run.begin_submitting(mails, bulk=bulk)
        killers.start()
        try:
            run.finish_submitting()
            # Leave some for the last kill.
            run.wait(
                lambda: (open_ := run.open_rows()) is not None and open_ <= mails // 5,
                "most mails finished",
                seconds=300,
            )
        finally:
            over.set()
            killers.join()
        last = _kill_worker(run, chance)
        left = run.open_rows(start_missing=False)
        run.wait(run.is_over, "all mails finished", seconds=300)
        run.world.smtp.slow = 0.0
        settled = time.monotonic() - last
        seconds = time.monotonic() - run.started
        sweeps = len(re.findall(r"tasks\.sweep\[[^]]*\] succeeded", run.world.logs()))
        found = run.rows().values()
        doubts = sum(row.doubts for row in found)
        run.remark(
            f"{run.kills} kills of {run.killed} processes and {sweeps} sweeps in {seconds:.0f} s, "
            f"and the {left} remaining mails settled {settled:.1f} s after the last kill"
        )
        innocent = sum(row.status == "quarantined" for row in found)
        run.promise(settled <= _SETTLED_IN, f"the last mail settled {settled:.1f} s after the last kill")
        run.promise(not innocent, f"{innocent} mails in quarantine that killed no worker")
        run.promise(
            doubts <= run.killed * run.at_once, f"{doubts} records of doubt after {run.killed} killed processes"
        )
        run.promise(run.kills >= mails // 200, f"only {run.kills} kills")
        # Busy workers must sweep too, or lost mail would wait for the end of the storm.
        run.promise(sweeps >= seconds / _SWEEP_EVERY, f"only {sweeps} sweeps in {seconds:.0f} s")

    return act


def _kill_worker(run: Run, chance: random.Random) -> float:
    """Kill one more whole worker, chosen at random, and return the time by ``time.monotonic()``."""
    run.wait(lambda: len(run.world.children()) >= run.world.setting.workers, "the processes of all workers")
    os.killpg(chance.choice(run.world.workers).pid, signal.SIGKILL)
    run.killed += run.world.setting.concurrency
    run.kills += 1
    return time.monotonic()


def _kill(run: Run, chance: random.Random, over: threading.Event) -> None:
    while not over.wait(chance.uniform(0.7, 1.3)):
        if sum(worker.is_running for worker in run.world.workers) < run.world.setting.workers:
            continue  # on a slow machine no worker would ever start to work
        try:
            if chance.random() < 0.25:
                os.killpg(chance.choice(run.world.workers).pid, signal.SIGKILL)
                run.killed += run.world.setting.concurrency
            else:
                os.kill(chance.choice(run.world.children()), signal.SIGKILL)
                run.killed += 1
        except (IndexError, ProcessLookupError):
            continue  # no process at this moment
        run.kills += 1


def _of(
    name: str, mails: int, seed: int, *, bulk: bool = False, extra: tuple[tuple[str, str], ...] = (), **setting: Any
) -> Case:
    return Case(
        group="storm",
        name=name,
        setting=Setting(extra=(("SWEEP_INTERVAL", "0.3"), *extra), **setting),
        act=_storm(mails, seed, bulk=bulk),
        seconds=10,
        slow=True,
    )


CASES = [
    _of("1000 mails", 1000, 1, policy="resend", database="postgresql", workers=2),
    _of("1000 mails", 1000, 2, policy="hold", database="sqlite", workers=2),
    _of("500 mails, three workers", 500, 3, policy="resend", database="sqlite", workers=3),
    _of("500 mails, three workers", 500, 4, policy="hold", database="postgresql", workers=3),
    _of("2000 bulk mails", 2000, 5, policy="hold", database="sqlite", workers=2, bulk=True),
    _of("2000 bulk mails", 2000, 6, policy="resend", database="postgresql", workers=2, bulk=True),
    _of("1000 mails", 1000, 7, policy="hold", database="mariadb", workers=2),
]
