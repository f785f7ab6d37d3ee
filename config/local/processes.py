"""Child processes that never outlive their parent, and waiting with a deadline."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self, TypeVar

LOOPBACK = "127.0.0.1"

#: How long to wait, in seconds, for what takes a few on a quiet machine. Only a failure waits for so long: a limit that
#: is nearer to what is needed fails on a busy machine, and tells nothing more.
PATIENCE = 100.0

T = TypeVar("T")


def wait_until(condition: Callable[[], T], *, what: str, seconds: float = PATIENCE) -> T:
    """Ask ``condition`` until it answers something true, and give that answer.

    Raises TimeoutError, naming ``what`` was waited for, after ``seconds``.
    """
    deadline = time.monotonic() + seconds
    pause = 0.005
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} seconds")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


def port_is_free(port: int) -> bool:
    """Tell whether a server could listen on this loopback port now."""
    probe = _bind(port, reuse=True)
    if probe is not None:
        probe.close()
    return probe is not None


def free_port(preferred: int | None = None) -> int:
    """Find a free loopback port: ``preferred`` if it is, else one that no other process is given.

    The port lies below those the kernel gives to outgoing connections. A server that is stopped for a while finds its
    port free again, and a client that knocks meanwhile cannot be connected to itself.
    """
    if preferred is not None and port_is_free(preferred):
        return preferred
    return _ports.take()


class _Ports:
    """The ports that this process gives away: a block of them, which it has as long as it lives.

    Between the choice of a port and the start of its server, and while a server is stopped, nothing holds the port.
    So that two runs at a time do not choose the same one, each takes its ports from a block of its own. The first port
    of a block is bound for as long as its process lives, which no other process can do then. The kernel frees it in any
    case, so that no file can be left behind.
    """

    FIRST, LAST = 20_000, 32_000
    #: A run goes through its block in turn, and comes back to a port only long after its server has ended.
    BLOCK = 300

    def __init__(self) -> None:
        self._held: socket.socket | None = None
        self._pid = 0
        self._turn: Iterator[int] = iter(())
        self._lock = threading.Lock()

    def take(self) -> int:
        """Give the next port of the block that is free."""
        with self._lock:
            if self._pid != os.getpid():  # a fork shares the block of its parent, but not its turn
                self._turn = itertools.cycle(self._take_block())
                self._pid = os.getpid()
            for port in itertools.islice(self._turn, self.BLOCK):
                if port_is_free(port):
                    return port
        raise OSError("no free port in this process's block")

    def _take_block(self) -> range:
        starts = list(range(self.FIRST, self.LAST, self.BLOCK))
        # Not the common generator: tests seed it, and would all look at the same blocks first.
        random.SystemRandom().shuffle(starts)
        for start in starts:
            held = _bind(start, reuse=False)
            if held is not None:
                self._held = held
                atexit.register(held.close)
                return range(start + 1, start + self.BLOCK)
        raise OSError(f"no free block of ports between {self.FIRST} and {self.LAST}")


_ports = _Ports()


def _bind(port: int, *, reuse: bool) -> socket.socket | None:
    """Bind a socket to a loopback port, or give None when another has it."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if reuse:  # a port with nothing but ended connections counts as free, as it does for a server
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((LOOPBACK, port))
    except OSError:
        bound.close()
        return None
    return bound


class Process:
    """A child process in a process group of its own, its output in a log file."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | os.PathLike[str]],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Start ``command``; ``env`` is added to this process's environment."""
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._popen = subprocess.Popen(  # noqa: S603  # our own commands
                [os.fspath(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,
            )

    def __repr__(self) -> str:
        state = "running" if self.is_running else f"ended with {self._popen.returncode}"
        return f"<Process {self.name} {self.pid} {state}>"

    @property
    def pid(self) -> int:
        """The process id, which is the id of its group too."""
        return self._popen.pid

    @property
    def is_running(self) -> bool:
        """Whether the process itself, not only a child of it, is still there."""
        return self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        """The exit status; minus the signal number when a signal ended it; None while it runs."""
        return self._popen.poll()

    def read_log(self) -> str:
        """Give what the process has written so far."""
        return self.log.read_text(errors="replace")

    def wait_for_log(self, text: str, *, seconds: float = PATIENCE) -> None:
        """Wait until the log has ``text``; raises at once when the process ends before."""

        def found() -> bool:
            if text in self.read_log():
                return True
            if not self.is_running:
                raise RuntimeError(f"{self.name} ended with {self.returncode}:\n{self.read_log()[-4000:]}")
            return False

        wait_until(found, seconds=seconds, what=f"{text!r} in the log of {self.name}")

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone."""
        if self.is_running:
            self._popen.send_signal(number)

    def send_signal_to_group(self, number: signal.Signals) -> None:
        """Send a signal to the process and all its children."""
        # The group keeps the id taken as long as it has a member, so this cannot hit a stranger.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def wait(self, *, seconds: float) -> int:
        """Wait for the end and give the exit status; raises TimeoutError."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} still runs after {seconds:g} seconds") from None

    def end(self, *, seconds: float = 10) -> None:
        """End it politely, and with a kill what is left of it and its children after ``seconds``."""
        self.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            self.wait(seconds=seconds)
        self.kill()

    def kill(self) -> None:
        """Kill the process and all its children now, as ``kill -9`` does."""
        self.send_signal_to_group(signal.SIGKILL)
        self._popen.wait()
        with contextlib.suppress(TimeoutError):
            wait_until(self._group_is_gone, seconds=20, what="the end of its children")

    def _group_is_gone(self) -> bool:
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False


class Processes:
    """All the children of one program; leaving the context ends them, the youngest first."""

    def __init__(self, logs: Path, *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        self.logs = logs
        self.env = dict(env or {})
        self.cwd = cwd
        self._started: list[Process] = []

    def start(
        self, name: str, command: Sequence[str | os.PathLike[str]], *, env: Mapping[str, str] | None = None
    ) -> Process:
        """Start a child that logs to ``NAME.log``."""
        process = Process(name, command, log=self.logs / f"{name}.log", env={**self.env, **(env or {})}, cwd=self.cwd)
        self._started.append(process)
        return process

    def running(self) -> list[Process]:
        """Give those that have not ended."""
        return [process for process in self._started if process.is_running]

    def end(self, *, seconds: float = 10) -> None:
        """End them all within about ``seconds``: ask everyone first, then wait for each."""
        # Not interruptible by a second Ctrl-C: a child would be left behind.
        with deaf_to_signals():
            for process in reversed(self._started):
                process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + seconds
            while self._started:
                process = self._started.pop()
                # Not asked twice: to a worker, the second time means 'now'.
                with contextlib.suppress(TimeoutError):
                    process.wait(seconds=max(0.0, deadline - time.monotonic()))
                process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def deaf_to_signals() -> Iterator[None]:
    """Ignore Ctrl-C and requests to end for a moment. Does nothing outside the main thread."""
    try:
        before = {number: signal.signal(number, signal.SIG_IGN) for number in ENDINGS}
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def unwind_on_signals() -> None:
    """Let Ctrl-C, SIGTERM and SIGHUP unwind the program, once, so that its contexts end their children."""

    def leave(number: int, frame: FrameType | None) -> None:
        for other in ENDINGS:
            signal.signal(other, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    for number in ENDINGS:
        signal.signal(number, leave)
