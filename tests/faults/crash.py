"""Kill a worker at an exact point of its work, or stop it there, without changing the code that it runs.

``tests.faults.settings`` loads this module into the workers. Each pool process sets the hook of ``sending.points``. At
the point that the plan names, it kills itself or the whole worker, as ``kill -9`` does. The plan is a file that only
one process can take, so that this happens once.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, Literal

from celery.signals import after_task_publish, worker_process_init
from django.conf import settings

from .following import FOLLOW

#: The environment variable that names the plan. The settings read it.
PLAN = "FAULTS_PLAN"

#: 'stopped' is a pool process that gets SIGSTOP, not SIGKILL.
Victim = Literal["child", "worker", "stopped"]

#: After the continuation of a mail is published, and before this is recorded.
PUBLISHED = "published"

#: Where a worker can be killed: the points of ``sending.points``, and how many times a process reaches the point before
#: it is killed. The last ones of a mail are recorded together.
POINTS = {
    "claimed": 1,
    "in hand": 3,
    "before a session": 1,
    "before it is read": 3,
    "before MAIL": 3,
    "before the content": 3,
    "before the dot": 3,
    "dot noted": 3,
    "answered": 3,
    "answer noted": 3,
    "before the record": 1,
    "recorded": 1,
    PUBLISHED: 2,
}


class Plan:
    """The plan, for the harness."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @property
    def is_done(self) -> bool:
        """Whether a process has reached its point."""
        return _taken(self._file).exists()

    @property
    def victim(self) -> int:
        """The id of the process that last reached its point."""
        return int(_taken(self._file).read_text())

    def arm(self, point: str, *, nth: int, victim: Victim) -> None:
        """Kill or stop ``victim`` when a process reaches ``point`` for the ``nth`` time from now."""
        if point not in POINTS:
            raise LookupError(f"{point!r} is not a point; see POINTS.")
        _taken(self._file).unlink(missing_ok=True)
        draft = self._file.with_suffix(".draft")
        draft.write_text(json.dumps({"point": point, "nth": nth, "victim": victim, "made": time.time_ns()}))
        draft.rename(self._file)

    def drop(self) -> None:
        """Remove the plan, so that no more processes are killed."""
        self._file.unlink(missing_ok=True)


def _taken(plan: Path) -> Path:
    return plan.with_suffix(".taken")


class _Watch:
    """Called for each point that a thread of this process reaches."""

    def __init__(self, plan: Path) -> None:
        self._plan = plan
        self._made = 0
        self._came = 0
        self._lock = threading.Lock()

    def __call__(self, name: str, *delivery_ids: str) -> None:
        with self._lock:  # while this thread kills the process, the others stop at their next point
            try:
                plan = json.loads(self._plan.read_text())
            except FileNotFoundError:
                return
            if plan["point"] != name:
                return
            if plan["made"] != self._made:
                self._made, self._came = plan["made"], 0
            self._came += 1
            if self._came >= plan["nth"]:
                self._end(plan["victim"])

    def _end(self, victim: Victim) -> None:
        mine = self._plan.with_suffix(f".{os.getpid()}")
        try:
            self._plan.rename(mine)
        except FileNotFoundError:
            return  # another process was faster
        mine.write_text(str(os.getpid()))
        mine.rename(_taken(self._plan))
        if victim == "worker":
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGSTOP if victim == "stopped" else signal.SIGKILL)


@worker_process_init.connect(weak=False)
def _watch(**kwargs: Any) -> None:
    if not settings.FAULTS_PLAN:
        return
    from email_integration.sending import points

    watch = _Watch(Path(settings.FAULTS_PLAN))
    points.hook = watch

    @after_task_publish.connect(sender=FOLLOW, weak=False)
    def published(**kwargs: Any) -> None:
        watch(PUBLISHED)
