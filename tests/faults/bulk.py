"""Batches that are refused, delayed and interrupted in the middle; and a worker for each priority."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable

from config.local.processes import PATIENCE

from .cases import Case, Run
from .crashes import HOLD, RESEND
from .refusals import chaotic, leaves_doubt, refuses
from .smtp import KINDS, SILENCES, Fault
from .world import Setting

#: Mails of one transaction.
_BATCH = 10

#: How many of them are sent before the fault.
_AFTER = 3

#: How often the server misbehaves before it works again.
_TIMES = 2


def _faulty(verb: str, kind: str) -> Callable[[Run], None]:
    def act(run: Run) -> None:
        run.world.smtp.misbehave(Fault(verb=verb, kind=kind, times=_TIMES, after=_AFTER))
        run.submit(_BATCH, atomic=True)
        run.wait(lambda: not run.world.smtp.pending, "all faults occurred")

    return act


def _misbehaving(setting: Setting, verbs: tuple[str, ...]) -> list[Case]:
    return [
        Case(
            group="bulk",
            name=f"{kind} at {verb}",
            setting=setting,
            act=_faulty(verb, kind),
            refuses=refuses(verb, kind),
            # For one mail at a time, however many are claimed.
            doubts=range(_TIMES + 1) if leaves_doubt(verb, kind) else range(1),
            slow=True,
        )
        for verb in verbs
        for kind in (SILENCES if verb == "TAKEN" else KINDS)
    ]


def _one_queue_alone(run: Run) -> None:
    """Kill the worker of bulk mail, do not restart it for a while, and send other mail meanwhile."""
    run.world.smtp.slow = 0.05
    run.submit(300, bulk=True)
    run.wait(run.arrived(20), "the first bulk mails")
    bulk = run.world.worker_of("mail.bulk")
    os.killpg(bulk.pid, signal.SIGKILL)
    bulk.wait(seconds=PATIENCE)
    started = time.monotonic()
    run.submit(20)
    others = run.ids[300:]
    run.wait(
        lambda: {run.rows()[pk].status for pk in others} == {"accepted"}, "the mails of the other priority accepted"
    )
    seconds = time.monotonic() - started
    left = sum(row.status == "queued" for row in run.rows().values())
    run.remark(f"20 mails of the other priority in {seconds:.1f} s, while {left} bulk mails waited for a worker")
    run.promise(left > 0, "no bulk mail waited for the killed worker")
    run.world.smtp.slow = 0.0


_A_WORKER_EACH = Setting(served=(("mail.bulk",), ("mail.high", "mail", "mail.sweep", "celery")))

CASES = [
    *_misbehaving(RESEND, ("MAIL", "RCPT", "DATA", "CONTENT", "DOT", "TAKEN")),
    *_misbehaving(HOLD, ("DOT", "TAKEN")),
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
        name="worker of one priority killed",
        setting=_A_WORKER_EACH,
        act=_one_queue_alone,
        # Each session of its processes may have had a mail at its dot.
        doubts=range(_A_WORKER_EACH.sessions * _A_WORKER_EACH.concurrency + 1),
        slow=True,
    ),
]
