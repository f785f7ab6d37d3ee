"""``kill -9`` of a pool process and of a whole worker, at each point of a mail's way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from .cases import Case, Run
from .crash import POINTS, Victim
from .world import Setting

RESEND = Setting(watched=True)
HOLD = Setting(watched=True, policy="hold")

#: Where the server's silence says when: the verb, and the octets of a mail that does not fit into the kernel.
SILENT_AT = {
    "after MAIL": ("MAIL", 300),
    "after RCPT": ("RCPT", 300),
    "after DATA": ("DATA", 300),
    "in the content": ("CONTENT", 6_000_000),
    "at the dot": ("DOT", 300),
    "after the dot": ("TAKEN", 300),
}

#: From the claim to the record: what dies there leaves its mail in doubt.
_IN_DOUBT = ("after the claim", "at the dot", "after the dot", "after the reply")

#: What was killed between the setting going of what follows and its record is set going again.
_AGAIN = ("after the continuation",)


def _at(point: str, victim: Victim) -> Callable[[Run], None]:
    def act(run: Run) -> None:
        if point == "before connect":
            run.world.smtp.drop_connections()
        run.world.plan.make(point, nth=1 if point == "before connect" else 2, victim=victim)
        run.submit(followed=True)
        run.wait(lambda: run.world.plan.is_done, "its death")

    return act


def _amid(verb: str, size: int, victim: Victim) -> Callable[[Run], None]:
    def act(run: Run) -> None:
        hold = run.world.smtp.hold(verb)
        run.begin_submitting(3, size=size, followed=True)
        run.world.kill_whoever_talks_from(hold.wait(), victim)
        run.finish_submitting()

    return act


def _of(setting: Setting, victim: Victim) -> list[Case]:
    at_once = 1 if victim == "child" else setting.concurrency
    ways = {point: _at(point, victim) for point in POINTS if not point.endswith("the commit")}
    ways |= {point: _amid(verb, size, victim) for point, (verb, size) in SILENT_AT.items()}
    return [
        Case(
            group="crash",
            name=f"{victim} killed {point}",
            setting=setting,
            act=act,
            # With a whole worker another mail may die, wherever it happens to be.
            may_follow_twice=(point in _AGAIN) + at_once - 1,
            doubts=range(point in _IN_DOUBT, (point in _IN_DOUBT) + at_once),
            slow=victim == "worker",
        )
        for point, act in ways.items()
    ]


def _on_postgresql(cases: list[Case]) -> list[Case]:
    return [
        dataclasses.replace(case, setting=dataclasses.replace(case.setting, database="postgresql"), slow=True)
        for case in cases
    ]


CASES = [
    *_of(RESEND, "child"),
    *_of(RESEND, "worker"),
    *_of(HOLD, "child"),
    *_of(HOLD, "worker"),
    *_on_postgresql(_of(RESEND, "child")),
]
