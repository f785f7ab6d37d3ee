"""Mails in Celery's canvas whose workers are killed at random moments, and how often what follows them was called.

What follows is a message to a queue that no worker serves, so that it is kept, and each time can be counted. A task
that a worker runs would not do: its death loses messages of the application, for which Celery answers.
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

#: The task that follows, which no process knows.
FOLLOW = "application.follow"


def mail(to: str = "kim@example.com", **more: Any) -> Signature[Any]:
    """A mail that takes nothing from the task before it."""
    made: Signature[Any] = send_email.si("Subject", "Text", to=[to], **more)
    return made


@dataclass
class Canvas:
    """Submits mails in every shape of the canvas. ``queue`` is where what follows them is kept.

    ``expected`` has the names of all that is to follow, by the source that calls it: a mail, or the last of a chord.
    """

    queue: str
    expected: dict[str, list[str]] = field(default_factory=dict)

    def submit(self) -> None:
        """Submit one of each shape."""
        number = len(self.expected)
        chain(mail(), mail(), *self._follow(f"{number} chain")).apply_async()
        mail().apply_async(link=self._follow(f"{number} link", of=2))
        mail("nobody@example.com").apply_async(link_error=self._follow(f"{number} link_error", of=2))
        chain(mail("nobody@example.com"), mail()).apply_async(link_error=self._follow(f"{number} failed chain"))
        chain(group(mail(), mail(), mail()), *self._follow(f"{number} group")).apply_async()
        chord([mail(), chain(mail(), mail())])(*self._follow(f"{number} chord"))
        chain(mail(), group(mail(), mail(), mail()), *self._follow(f"{number} group amid a chain")).apply_async()

    def _follow(self, source: str, *, of: int = 1) -> list[Signature[Any]]:
        names = self.expected[source] = [f"{source} {one}" for one in range(of)]
        return [current_app.signature(FOLLOW, kwargs={"of": name}, queue=self.queue, immutable=True) for name in names]

    def called(self) -> dict[str, Counter[str]]:
        """How often each was called under which task id, by its name."""
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for message in messages(services.broker, self.queue):
            found[message.keywords["of"]][message.headers["id"]] += 1
        return found

    def missing(self) -> set[str]:
        """What was not called."""
        return {name for names in self.expected.values() for name in names} - self.called().keys()

    def again(self) -> dict[str, int]:
        """How often too many each source has called what follows it, of those that did."""
        called = self.called()
        most = {source: max(called[name].total() for name in names) for source, names in self.expected.items()}
        return {source: number - 1 for source, number in most.items() if number > 1}


@dataclass
class Killer:
    """Kills processes of a worker, of which it starts another when it has killed the whole."""

    stack: Stack
    server: SMTPServer
    chance: random.Random
    #: Processes of a pool that were killed, those of whole workers included.
    killed: int = 0
    workers: int = 0

    def kill_one(self) -> None:
        """Kill a process of the pool."""
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
        """Kill all of it at once, and start another."""
        self._wait()
        self.killed += len(children(self.stack.worker.pid))
        self.workers += 1
        self.stack.kill_worker()
        self.stack.start_worker()

    def _wait(self) -> None:
        """Wait for the server's next mail, and a moment longer: much happens to it then."""
        before = len(self.server.sessions), len(self.server.messages)
        wait_until(lambda: (len(self.server.sessions), len(self.server.messages)) != before, what="a mail")
        time.sleep(self.chance.uniform(0, 0.1))


def children(pid: int) -> list[int]:
    """The processes that this one has forked and that live."""
    listed = subprocess.run(["ps", "-o", "pid=,stat=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    rows = [line.split() for line in listed.stdout.splitlines()]
    return [int(row[0]) for row in rows if not row[1].startswith("Z")]


def seeded(seed: str | None) -> tuple[str, random.Random]:
    """A random of its own, and its seed, which chooses the same processes and pauses again.

    What these processes do at that moment is another matter: a run is not repeated by it.
    """
    seed = seed or str(random.SystemRandom().randrange(10**9))
    return seed, random.Random(seed)  # chooses moments, guards nothing


def under_load(killer: Killer, canvas: Canvas, *, kills: int, workers: int, unfinished: Callable[[], int]) -> None:
    """Kill so many times processes of pools, and whole workers now and then, while there is always mail to send."""
    fatal = set(killer.chance.sample(range(kills), workers))
    for number in range(kills):
        while unfinished() < 25:
            canvas.submit()
        if number in fatal:
            killer.kill_worker()
        else:
            killer.kill_one()
