"""Asking several things at once, none of them for longer than is good for whoever waits for the answer."""

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
class Answer:
    """Whether it is well, in a sentence for a person, and how many seconds it took to find out."""

    ok: bool
    text: str
    seconds: float


#: What is asked: whether it is well, and the sentence.
Question = Callable[[], tuple[bool, str]]


class Panel:
    """Questions by name. All state is ``_asked``, what has been asked and not been answered yet, under ``_lock``."""

    def __init__(self, questions: Mapping[str, Question]) -> None:
        self._questions = questions
        self._lock = threading.Lock()
        self._asked: dict[str, Future[Answer]] = {}

    def ask(self, *, patience: float) -> dict[str, Answer]:
        """Ask everything, for ``patience`` seconds in all; what is not answered by then is not well.

        Whoever asks meanwhile gets the same answer, so that what hangs is not asked again and again.
        """
        return self.begin(patience=patience)()

    def begin(self, *, patience: float) -> Callable[[], dict[str, Answer]]:
        """Ask everything, and give what waits for the answers: until ``patience`` seconds from now."""
        began = time.monotonic()
        asked = {name: self._ask(name) for name in self._questions}

        def answers() -> dict[str, Answer]:
            return {
                name: _answer(future, patience - (time.monotonic() - began), patience) for name, future in asked.items()
            }

        return answers

    def _ask(self, name: str) -> Future[Answer]:
        with self._lock:
            future = self._asked.get(name)
            if future is None:
                future = self._asked[name] = Future()
                # A daemon: one that hangs must not keep the process from ending.
                threading.Thread(target=self._find_out, args=(name, future), name=f"ask {name}", daemon=True).start()
            return future

    def _find_out(self, name: str, future: Future[Any]) -> None:
        began = time.monotonic()
        try:
            ok, text = self._questions[name]()
        except Exception as error:  # whatever it is, it is not well; its text may hold an address
            logger.error("The question %r failed (%s).", name, type(error).__name__)
            ok, text = False, f"It cannot be asked ({type(error).__name__})"
        finally:
            connections.close_all()  # those of this thread
        with self._lock:
            del self._asked[name]
        future.set_result(Answer(ok=ok, text=text, seconds=time.monotonic() - began))


def _answer(future: Future[Answer], left: float, patience: float) -> Answer:
    try:
        return future.result(timeout=max(0.0, left))
    except TimeoutError:
        return Answer(ok=False, text=f"No answer within {patience:g} s", seconds=patience)
