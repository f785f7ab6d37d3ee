"""Many workers on one database, workers that are told to end, and clocks that jump."""

from __future__ import annotations

import signal
from collections.abc import Callable

from config.local.processes import PATIENCE

from .cases import Case, Run
from .world import Setting

_THREE = Setting(workers=3)
_ONE = Setting()
_SOFT = Setting(extra=(("FAULTS_SOFT_SHUTDOWN", "3"),))


def _many(run: Run) -> None:
    run.submit(120)
    run.wake_again()


def _signalled(number: signal.Signals) -> Callable[[Run], None]:
    def act(run: Run) -> None:
        run.world.smtp.slow = 0.05
        run.begin_submitting(60, pause=0.01)
        run.wait(run.arrived(10), "ten mails")
        worker = run.world.workers[0]
        worker.send_signal(number)
        run.finish_submitting()
        worker.wait(seconds=PATIENCE)
        # End the rest of it.
        worker.kill()
        run.world.smtp.slow = 0.0

    return act


CASES = [
    *(
        Case(
            group="workers",
            name="three workers, and a wake-up for each mail",
            setting=setting,
            act=_many,
            slow=slow,
            doubts=range(1),
        )
        for setting, slow in ((_THREE, False), (Setting(workers=3, database="postgresql"), True))
    ),
    Case(group="workers", name="TERM under load", setting=_ONE, act=_signalled(signal.SIGTERM), doubts=range(1)),
    Case(group="workers", name="QUIT under load", setting=_ONE, act=_signalled(signal.SIGQUIT)),
    Case(group="workers", name="soft shutdown under load", setting=_SOFT, act=_signalled(signal.SIGQUIT), slow=True),
]
