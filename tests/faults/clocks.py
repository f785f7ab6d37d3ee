"""Clocks that jump by an hour while mail is being sent."""

from __future__ import annotations

from collections.abc import Callable

from .cases import Case, Run
from .world import Setting

_HOUR = 3600


def _jump(*hours: int) -> Callable[[Run], None]:
    """Make the clock jump while mails are being sent, wait until some more have arrived, and make it jump again."""

    def act(run: Run) -> None:
        run.world.smtp.slow = 0.05
        run.begin_submitting(60, pause=0.05)
        for number, hour in enumerate(hours):
            run.wait(run.arrived(10 * (number + 1)), "mails")
            run.world.set_clock(hour * _HOUR)
        run.finish_submitting()
        run.world.smtp.slow = 0.0

    return act


#: In one world, and in this order: after a jump forward, the return to the right time would be an hour back, and all
#: mail would wait for that hour.
CASES = [
    Case(group="clock", name=name, setting=Setting(clock=True), act=_jump(*hours), slow=True)
    for name, hours in (("set back an hour, and then forward again", (-1, 0)), ("set forward an hour", (1,)))
]
