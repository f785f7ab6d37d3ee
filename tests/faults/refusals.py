"""A server with every possible fault, at each verb and at random, which then works again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from .cases import Case, Run
from .crashes import HOLD, RESEND
from .smtp import KINDS, SILENCES, VERBS, Fault

#: How often it misbehaves before it works again.
TIMES = 2


def _faulty(verb: str, kind: str) -> Callable[[Run], None]:
    def act(run: Run) -> None:
        # Open connections would not be opened again, and so not reach the verb.
        run.world.smtp.drop_connections()
        run.world.smtp.misbehave(Fault(verb=verb, kind=kind, times=TIMES))
        run.submit()
        run.wait(lambda: not run.world.smtp.pending, "all faults occurred")

    return act


def chaotic(seed: int, mails: int, times: int, *, atomic: bool = False) -> Callable[[Run], None]:
    """Return an action: ``mails`` mails, and any fault at any verb, ``times`` times."""

    def act(run: Run) -> None:
        before = run.world.smtp.misbehaved
        run.world.smtp.misbehave_at_random(seed, rate=0.15)
        run.submit(mails, atomic=atomic)
        run.wait(lambda: run.world.smtp.misbehaved - before >= times or run.is_over(), "all faults occurred")

    return act


def refuses(verb: str, kind: str) -> int:
    """Return how many mails are refused for good: one for each refusal of the mail itself."""
    return TIMES if kind == "5yz" and verb in ("MAIL", "RCPT", "DATA", "CONTENT", "DOT") else 0


def leaves_doubt(verb: str, kind: str) -> bool:
    """Return whether it is unknowable if the server has the mail: no clear reply after it may have the dot."""
    return verb in ("DOT", "TAKEN") or (verb == "CONTENT" and kind in SILENCES)


CASES = [
    Case(
        group="server",
        name=f"{kind} at {verb}",
        setting=setting,
        act=_faulty(verb, kind),
        refuses=refuses(verb, kind),
        doubts=range(TIMES + 1) if leaves_doubt(verb, kind) else range(1),
    )
    for setting, verbs in ((RESEND, VERBS), (HOLD, ("CONTENT", "DOT", "TAKEN")))
    for verb in verbs
    for kind in (SILENCES if verb == "TAKEN" else KINDS)
] + [
    Case(
        group="server",
        name=f"at random, seed {seed}",
        setting=setting,
        act=chaotic(seed, mails=30, times=25),
        slow=True,
    )
    for setting in (RESEND, HOLD, dataclasses.replace(RESEND, database="postgresql"))
    for seed in (1, 2)
]
