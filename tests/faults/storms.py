"""A thousand mails, and ``kill -9`` of a pool process or a whole worker every second until all have come to an end."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable

from .cases import Case, Run
from .world import Setting


def _storm(mails: int, seed: int) -> Callable[[Run], None]:
    def act(run: Run) -> None:
        chance = random.Random(seed)
        over = threading.Event()
        # What is killed is killed with a mail in its hands, more often than not.
        run.world.smtp.slow = 0.02
        killers = threading.Thread(target=_kill, args=(run, chance, over))
        run.begin_submitting(mails)
        killers.start()
        try:
            run.finish_submitting()
            run.wait(run.is_over, "the end of all", seconds=300)
        finally:
            over.set()
            killers.join()
            run.world.smtp.slow = 0.0
        run.promise(run.kills >= mails // 200, f"only {run.kills} kills")

    return act


def _kill(run: Run, chance: random.Random, over: threading.Event) -> None:
    while not over.wait(chance.uniform(0.7, 1.3)):
        if sum(worker.is_running for worker in run.world.workers) < run.world.setting.workers:
            continue  # on a slow machine nobody would ever come to work
        try:
            if chance.random() < 0.25:
                os.killpg(chance.choice(run.world.workers).pid, signal.SIGKILL)
            else:
                os.kill(chance.choice(run.world.children()), signal.SIGKILL)
        except (IndexError, ProcessLookupError):
            continue  # nobody there at this moment
        run.kills += 1


CASES = [
    Case(
        group="storm",
        name=f"{mails} mails",
        setting=Setting(policy=policy, database=database, workers=2),
        act=_storm(mails, seed),
        seconds=10,
        slow=True,
    )
    for policy, database, mails, seed in (
        ("resend", "postgresql", 1000, 1),
        ("hold", "sqlite", 1000, 2),
        ("resend", "sqlite", 200, 3),
        ("hold", "postgresql", 200, 4),
    )
]
