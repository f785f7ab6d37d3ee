"""Groups over one session: killed, refused, hung and dropped in their midst; and lanes with a worker for each."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable

from config.local.processes import PATIENCE

from .cases import Case, Run
from .crash import Victim
from .crashes import HOLD, RESEND
from .refusals import chaotic, leaves_doubt, refuses
from .smtp import KINDS, SILENCES, Fault
from .world import Setting

#: Mails that one message rings for.
_GROUP = 10

#: Of those, so many go well before the harm is done.
_AFTER = 3

#: Ten are claimed in one commit: a group whose outcomes cost two commits, and as many in doubt when it is killed.
TEN = (("GROUP_COMMIT", "10"),)
_RESEND_TEN, _HOLD_TEN = (dataclasses.replace(setting, extra=TEN) for setting in (RESEND, HOLD))

#: Where a process can die, and how many are then in doubt, with one claimed in a commit.
#: A server that is not quick has it that the record of one mail and the claim of the next are two commits.
_POINTS = {"before the commit": range(2), "after the commit": range(2), "after the reply": range(1, 2)}
#: The same by the server's silence: the verb, the octets of a mail, and the doubts. The record of the last mail may be
#: a moment late, and a content that fits into the kernel is followed by its dot.
_SILENT = {
    "after MAIL": ("MAIL", 300, range(2)),
    "after RCPT": ("RCPT", 300, range(2)),
    "after DATA": ("DATA", 300, range(2)),
    "in the content": ("CONTENT", 200_000, range(2)),
    "at the dot": ("DOT", 300, range(1, 2)),
    "after the dot": ("TAKEN", 300, range(1, 2)),
}


def _at(point: str, victim: Victim) -> Callable[[Run], None]:
    def act(run: Run) -> None:
        run.world.plan.make(point, nth=2 if run.at_once > 1 else 1 + _AFTER, victim=victim)
        run.submit(_GROUP, followed=True, atomic=True)
        run.wait(lambda: run.world.plan.is_done, "its death")
        _say_its_price(run)

    return act


def _amid(verb: str, size: int, victim: Victim) -> Callable[[Run], None]:
    def act(run: Run) -> None:
        hold = run.world.smtp.hold(verb, after=_AFTER)
        run.begin_submitting(_GROUP, size=size, followed=True, atomic=True)
        run.world.kill_whoever_talks_from(hold.wait(), victim)
        run.finish_submitting()
        _say_its_price(run)

    return act


def _say_its_price(run: Run) -> None:
    if run.at_once > 1:
        run.drain()
        doubts = sum(row.doubts for row in run.rows().values())
        run.remark(f"{doubts} in doubt for one kill")


def _killed(setting: Setting, *, slow: bool) -> list[Case]:
    ways = {point: (_at(point, "child"), doubts) for point, doubts in _POINTS.items()}
    ways |= {point: (_amid(verb, size, "child"), doubts) for point, (verb, size, doubts) in _SILENT.items()}
    ten = ", ten a commit" if setting.extra else ""
    return [
        Case(
            group="bulk",
            name=f"child killed {point}{ten}",
            setting=setting,
            act=act,
            doubts=range(_GROUP + 1) if setting.extra else doubts,
            slow=slow,
        )
        for point, (act, doubts) in ways.items()
    ]


#: How often the server misbehaves before it comes to its senses.
_TIMES = 2


def _faulty(verb: str, kind: str) -> Callable[[Run], None]:
    def act(run: Run) -> None:
        run.world.smtp.misbehave(Fault(verb=verb, kind=kind, times=_TIMES, after=_AFTER))
        run.submit(_GROUP, atomic=True)
        run.wait(lambda: not run.world.smtp.pending, "the faults")

    return act


def _misbehaving(setting: Setting, verbs: tuple[str, ...]) -> list[Case]:
    ten = ", ten a commit" if setting.extra else ""
    return [
        Case(
            group="bulk",
            name=f"{kind} at {verb}{ten}",
            setting=setting,
            act=_faulty(verb, kind),
            refuses=refuses(verb, kind),
            # Of one mail at a time, however many are claimed.
            doubts=range(_TIMES + 1) if leaves_doubt(verb, kind) else range(1),
            slow=True,
        )
        for verb in verbs
        for kind in (SILENCES if verb == "TAKEN" else KINDS)
    ]


def _one_lane_alone(run: Run) -> None:
    """Kill the worker of bulk, leave it dead for a while, and have others sent meanwhile."""
    run.world.smtp.slow = 0.05
    run.submit(300, bulk=True)
    run.wait(run.arrived(20), "some of the bulk")
    bulk = run.world.worker_of("mail.bulk")
    os.killpg(bulk.pid, signal.SIGKILL)
    bulk.wait(seconds=PATIENCE)
    started = time.monotonic()
    run.submit(20)
    others = run.ids[300:]
    run.wait(lambda: {run.rows()[pk].status for pk in others} == {"accepted"}, "the other lane")
    seconds = time.monotonic() - started
    left = sum(row.status == "queued" for row in run.rows().values())
    run.remark(f"20 of the other lane in {seconds:.1f} s, while {left} waited for a worker")
    run.promise(left > 0, "nothing waited for the worker that was killed")
    run.world.smtp.slow = 0.0


_LANES = (("mail.bulk",), ("mail.high", "mail", "mail.sweep", "celery"))

CASES = [
    *_killed(HOLD, slow=False),
    *_killed(RESEND, slow=True),
    *_killed(dataclasses.replace(HOLD, database="postgresql"), slow=True),
    *_killed(_HOLD_TEN, slow=True),
    *_misbehaving(RESEND, ("MAIL", "RCPT", "DATA", "CONTENT", "DOT", "TAKEN")),
    *_misbehaving(HOLD, ("DOT", "TAKEN")),
    *_misbehaving(_RESEND_TEN, ("RCPT", "DOT", "TAKEN")),
    *(
        Case(
            group="bulk",
            name=f"at random, seed {seed}",
            setting=setting,
            act=chaotic(seed, mails=60, times=25, atomic=True),
            slow=True,
        )
        for setting in (RESEND, HOLD, dataclasses.replace(RESEND, database="postgresql"))
        for seed in (3, 4)
    ),
    Case(
        group="bulk",
        name="the worker of one lane killed",
        setting=Setting(lanes=_LANES),
        act=_one_lane_alone,
        doubts=range(3),
        slow=True,
    ),
]
