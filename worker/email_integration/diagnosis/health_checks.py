"""Run several checks at the same time, with a limit on how long the caller waits for the results."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from django.db import connections

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """Whether a check succeeded, a sentence for people, and the duration in seconds."""

    ok: bool
    text: str
    seconds: float


#: Returns whether the check succeeded, and a sentence for people.
Check = Callable[[], tuple[bool, str]]


class CheckGroup:
    """Checks by name.

    All mutable state is ``_running``, the checks that have not returned yet. ``_lock`` protects it.
    """

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks
        self._lock = threading.Lock()
        self._running: dict[str, Future[CheckResult]] = {}

    def run(self, *, patience: float) -> dict[str, CheckResult]:
        """Run all checks, for at most ``patience`` seconds together. A check without a result by then has failed.

        Concurrent callers share the running checks, so a check that hangs is not started again.
        """
        return self.start(patience=patience)()

    def start(self, *, patience: float) -> Callable[[], dict[str, CheckResult]]:
        """Start all checks, and return a function that waits for their results until ``patience`` seconds from now."""
        began = time.monotonic()
        running = {name: self._start(name) for name in self._checks}

        def results() -> dict[str, CheckResult]:
            return {
                name: _result(future, patience - (time.monotonic() - began), patience)
                for name, future in running.items()
            }

        return results

    def _start(self, name: str) -> Future[CheckResult]:
        with self._lock:
            future = self._running.get(name)
            if future is None:
                future = self._running[name] = Future()
                # A daemon thread, because a check that hangs must not keep the process alive.
                threading.Thread(target=self._run, args=(name, future), name=f"check {name}", daemon=True).start()
            return future

    def _run(self, name: str, future: Future[Any]) -> None:
        began = time.monotonic()
        try:
            ok, text = self._checks[name]()
        except Exception as error:  # any error is a failure; its text may contain an address
            logger.error("The check %r failed (%s).", name, type(error).__name__)
            ok, text = False, f"The check failed ({type(error).__name__})"
        finally:
            connections.close_all()  # the connections of this thread
        with self._lock:
            del self._running[name]
        future.set_result(CheckResult(ok=ok, text=text, seconds=time.monotonic() - began))


def _result(future: Future[CheckResult], left: float, patience: float) -> CheckResult:
    try:
        return future.result(timeout=max(0.0, left))
    except TimeoutError:
        return CheckResult(ok=False, text=f"The check did not finish within {patience:g} s", seconds=patience)
