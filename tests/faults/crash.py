"""Ends a worker at an exact point of its work, from within and without changing what it runs.

Loaded by ``tests.faults.settings`` into the workers. Each pool process watches its own calls (``sys.setprofile``); when
the function that the plan names is called or returns, it kills itself, or the whole worker, as ``kill -9`` does. The
plan is a file that only one process can take away, so that it happens once.
"""

from __future__ import annotations

import json
import os
import pkgutil
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Literal

from celery.signals import worker_process_init

#: The environment variable that names the plan.
PLAN = "FAULTS_PLAN"

Victim = Literal["child", "worker"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """The ``call`` or the ``return`` of a function, by its dotted name."""

    function: str
    event: Literal["call", "return"]


#: Where a worker can be made to die.
POINTS = {
    "before connect": Point(function="email_integration.smtp.opening:open_connection", event="call"),
    "before the claim": Point(function="email_integration.ledger.transitions:claim", event="call"),
    "after the claim": Point(function="email_integration.ledger.transitions:claim", event="return"),
    "after the reply": Point(function="email_integration.smtp.session:Session.finish", event="return"),
    "after the record": Point(function="email_integration.ledger.transitions:record", event="return"),
    # A group's: one commit is the record of one mail and the claim of the next.
    "before the commit": Point(function="email_integration.ledger.transitions:record_and_claim", event="call"),
    "after the commit": Point(function="email_integration.ledger.transitions:record_and_claim", event="return"),
    "before the continuation": Point(function="email_integration.tasks.canvas:go_on", event="call"),
    "after the continuation": Point(function="email_integration.tasks.canvas:go_on", event="return"),
}


class Plan:
    """The plan, seen from the harness."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @property
    def is_done(self) -> bool:
        """Whether somebody has died of it."""
        return not self._file.exists()

    def make(self, point: str, *, nth: int, victim: Victim) -> None:
        """Have the process that comes to ``point`` for the ``nth`` time from now end its life there."""
        draft = self._file.with_suffix(".draft")
        draft.write_text(json.dumps({**asdict(POINTS[point]), "nth": nth, "victim": victim, "made": time.time_ns()}))
        draft.rename(self._file)

    def drop(self) -> None:
        """Let nobody die of it any more."""
        self._file.unlink(missing_ok=True)


class _Watch:
    """Sees every call in this thread."""

    def __init__(self, plan: Path) -> None:
        self._plan = plan
        self._made = 0
        self._came = 0
        self._points: dict[tuple[CodeType, str], Point] = {}
        for point in POINTS.values():
            # A name that is not there any more ends the worker, so that no case is passed by doing nothing.
            code: CodeType = pkgutil.resolve_name(point.function).__code__
            self._points[code, point.event] = point

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        point = self._points.get((frame.f_code, event))
        if point is not None:
            self._come_to(point)

    def _come_to(self, point: Point) -> None:
        try:
            plan = json.loads(self._plan.read_text())
        except FileNotFoundError:
            return
        if (plan["function"], plan["event"]) != (point.function, point.event):
            return
        if plan["made"] != self._made:
            self._made, self._came = plan["made"], 0
        self._came += 1
        if self._came < plan["nth"]:
            return
        try:
            self._plan.unlink()
        except FileNotFoundError:
            return  # another process was faster
        if plan["victim"] == "worker":
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


@worker_process_init.connect(weak=False)
def _watch(**kwargs: Any) -> None:
    if os.environ.get(PLAN):
        sys.setprofile(_Watch(Path(os.environ[PLAN])))
