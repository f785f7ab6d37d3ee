"""Mails in Celery's canvas whose workers are killed at random moments; counts the calls of their continuations.

A continuation is a message to a queue that no worker serves, so it is kept and every call can be counted. A task that a
worker runs would not do: when the worker dies, messages of the application are lost, for which Celery is responsible.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from celery import Signature, chain, chord, current_app, group

from config.local.processes import wait_until
from email_integration.smtpd import SMTPServer
from email_integration.tasks import send_email
from tests import services
from tests.broker import messages
from tests.stack import Stack

#: The task of the continuation. No process knows it.
FOLLOW = "application.follow"


def mail(to: str = "kim@example.com", **more: Any) -> Signature[Any]:
    """Return the signature of a mail that takes no argument from the task before it."""
    made: Signature[Any] = send_email.si("Subject", "Text", to=[to], **more)
    return made


@dataclass
class Canvas:
    """Submits mails in every shape of the canvas. ``queue`` keeps the messages of their continuations.

    ``expected`` maps each source to the names of its continuations. A source is a mail, or the last part of a chord.
    """

    queue: str
    expected: dict[str, list[str]] = field(default_factory=dict)

    def submit(self) -> None:
        """Submit one mail or canvas of each shape."""
        number = len(self.expected)
        chain(mail(), mail(), *self._follow(f"{number} chain")).apply_async()
        mail().apply_async(link=self._follow(f"{number} link", of=2))
        mail("unknown@example.com").apply_async(link_error=self._follow(f"{number} link_error", of=2))
        chain(mail("unknown@example.com"), mail()).apply_async(link_error=self._follow(f"{number} failed chain"))
        chain(group(mail(), mail(), mail()), *self._follow(f"{number} group")).apply_async()
        chord([mail(), chain(mail(), mail())])(*self._follow(f"{number} chord"))
        chain(mail(), group(mail(), mail(), mail()), *self._follow(f"{number} group amid a chain")).apply_async()

    def _follow(self, source: str, *, of: int = 1) -> list[Signature[Any]]:
        names = self.expected[source] = [f"{source} {one}" for one in range(of)]
        return [current_app.signature(FOLLOW, kwargs={"of": name}, queue=self.queue, immutable=True) for name in names]

    def called(self) -> dict[str, Counter[str]]:
        """Return, for each continuation's name, how often it was called under which task id."""
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for message in messages(services.broker, self.queue):
            found[message.keywords["of"]][message.headers["id"]] += 1
        return found

    def missing(self) -> set[str]:
        """Return the names of the continuations that were not called."""
        return {name for names in self.expected.values() for name in names} - self.called().keys()

    def again(self) -> dict[str, int]:
        """Return the number of surplus calls for each source that has called its continuations more than once."""
        called = self.called()
        most = {source: max(called[name].total() for name in names) for source, names in self.expected.items()}
        return {source: number - 1 for source, number in most.items() if number > 1}


@dataclass
class Killer:
    """Kills processes of a worker's pool, or the whole worker, which it then replaces with another."""

    stack: Stack
    server: SMTPServer
    chance: random.Random
    #: Number of killed pool processes, including those of killed workers.
    killed: int = 0
    workers: int = 0

    def kill_one(self) -> None:
        """Kill one process of the pool."""
        self._wait()
        found = children(self.stack.worker.pid)
        if not found:
            return
        try:
            os.kill(self.chance.choice(found), signal.SIGKILL)
        except ProcessLookupError:
            return
        self.killed += 1

    def kill_worker(self) -> None:
        """Kill the worker with its pool at once, and start another worker."""
        self._wait()
        self.killed += len(children(self.stack.worker.pid))
        self.workers += 1
        self.stack.kill_worker()
        self.stack.start_worker()

    def _wait(self) -> None:
        """Wait for the server's next mail and a random moment longer: most of the work happens then."""
        before = len(self.server.sessions), len(self.server.messages)
        wait_until(lambda: (len(self.server.sessions), len(self.server.messages)) != before, what="a mail")
        time.sleep(self.chance.uniform(0, 0.1))


def children(pid: int) -> list[int]:
    """Return the ids of the living child processes of ``pid``."""
    listed = subprocess.run(["ps", "-o", "pid=,stat=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    rows = [line.split() for line in listed.stdout.splitlines()]
    return [int(row[0]) for row in rows if not row[1].startswith("Z")]


def seeded(seed: str | None) -> tuple[str, random.Random]:
    """Return the seed and a random generator made from it. The same seed chooses the same processes and pauses.

    The seed does not repeat a run exactly: what the processes do at that moment varies.
    """
    seed = seed or str(random.SystemRandom().randrange(10**9))
    return seed, random.Random(seed)  # chooses moments, protects nothing


def under_load(killer: Killer, canvas: Canvas, *, kills: int, workers: int, unfinished: Callable[[], int]) -> None:
    """Kill pool processes ``kills`` times, ``workers`` times the whole worker, while there is always mail to send."""
    fatal = set(killer.chance.sample(range(kills), workers))
    for number in range(kills):
        while unfinished() < 25:
            canvas.submit()
        if number in fatal:
            killer.kill_worker()
        else:
            killer.kill_one()
