"""``kill -9`` of a pool process, of a whole worker and of a host, at each point of a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from .cases import Case, Run
from .crash import POINTS, Victim
from .world import Setting

RESEND = Setting(watched=True)
HOLD = Setting(watched=True, policy="hold")

#: Mails of one transaction, so that they are claimed together.
_MAILS = 12

#: The points between the notes of a final dot and of the reply: a process killed there leaves its mail in doubt.
_IN_DOUBT = ("dot noted", "answered")

#: The points at which a silent server holds a session: the verb, and the octets of a mail. The largest does not fit
#: into the kernel's buffers.
SILENT_AT = {
    "after MAIL": ("MAIL", 300),
    "after RCPT": ("RCPT", 300),
    "after DATA": ("DATA", 300),
    "in the content": ("CONTENT", 6_000_000),
    "at the dot": ("DOT", 300),
    "after the dot": ("TAKEN", 300),
}


def at(point: str, victim: Victim) -> Callable[[Run], None]:
    """Return an action that submits a batch, and kills the victim at this point of it."""

    def act(run: Run) -> None:
        die_at(run, point, victim)

    return act


def die_at(run: Run, point: str, victim: Victim, *, nth: int = 0) -> None:
    """Submit a batch, and wait until the victim has died, or is stopped, at this point of it.

    The process dies when it reaches the point for the ``nth`` time; 0 means the default of the point.
    """
    if point == "before a session":
        run.world.smtp.drop_connections()
    run.world.plan.arm(point, nth=nth or POINTS[point], victim=victim)
    run.submit(_MAILS, followed=True, atomic=True)
    run.wait(lambda: run.world.plan.is_done, "the killed process")


def _amid(verb: str, size: int, victim: Victim) -> Callable[[Run], None]:
    def act(run: Run) -> None:
        hold = run.world.smtp.hold(verb)
        run.begin_submitting(3, size=size, followed=True)
        run.world.kill_process_with_port(hold.wait(), victim)
        run.finish_submitting()

    return act


def _at_points(setting: Setting, victim: Victim, *, slow: bool) -> list[Case]:
    processes = 1 if victim == "child" else setting.concurrency
    return [
        Case(
            group="crash",
            name=f"{'host' if setting.hosts else victim} killed at '{point}'",
            setting=setting,
            act=at(point, victim),
            # Mails of the batch that are finished may already have their continuation.
            may_follow_twice=processes,
            # Each of its sessions may have had a mail at its dot. Without a journal, all mails of the batch may be in
            # doubt.
            doubts=range(
                point in _IN_DOUBT, 1 + (_MAILS if setting.hosts == "apart" else setting.sessions * processes)
            ),
            slow=slow,
        )
        for point in POINTS
    ]


def _at_silences(setting: Setting, victim: Victim) -> list[Case]:
    processes = 1 if victim == "child" else setting.concurrency
    return [
        Case(
            group="crash",
            name=f"{victim} killed {point}",
            setting=setting,
            act=_amid(verb, size, victim),
            may_follow_twice=processes,
            doubts=range(verb in ("DOT", "TAKEN"), setting.sessions * processes + 1),
            slow=victim == "worker",
        )
        for point, (verb, size) in SILENT_AT.items()
    ]


def _on(database: str, setting: Setting = RESEND) -> Setting:
    return dataclasses.replace(setting, database=database)


#: Each of two workers is a host.
HOSTS = Setting(watched=True, workers=2, hosts="apart")

CASES = [
    *_at_points(RESEND, "child", slow=False),
    *_at_points(HOLD, "child", slow=True),
    *_at_silences(RESEND, "child"),
    *_at_silences(HOLD, "child"),
    *_at_silences(HOLD, "worker"),
    *_at_points(HOLD, "worker", slow=True),
    *_at_points(HOSTS, "worker", slow=True),
    *(
        case
        for database in ("postgresql", "mariadb")
        for setting, victim in ((RESEND, "child"), (HOLD, "worker"), (HOSTS, "worker"))
        for case in _at_points(_on(database, setting), victim, slow=True)
    ),
]
