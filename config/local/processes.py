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

#: Default limit in seconds for a wait that takes a few seconds on a quiet machine. Only a failure waits so long. A
#: lower limit would fail on a busy machine, without telling more.
PATIENCE = 100.0

T = TypeVar("T")


def wait_until(condition: Callable[[], T], *, what: str, seconds: float = PATIENCE) -> T:
    """Call ``condition`` until it returns a true value, and return that value.

    Raises TimeoutError, which names ``what``, after ``seconds``.
    """
    deadline = time.monotonic() + seconds
    pause = 0.005
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise TimeoutError(f"timed out after {seconds:g} seconds waiting for: {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


def port_is_free(port: int) -> bool:
    """Return whether a server could listen on this loopback port now."""
    probe = _bind(port, reuse=True)
    if probe is not None:
        probe.close()
    return probe is not None


def free_port(preferred: int | None = None) -> int:
    """Return a free loopback port: ``preferred`` if it is free, else one that no other process is given.

    The port is below those that the kernel gives to outgoing connections. Thus a server that is stopped for a while
    finds its port free again, and a client that connects meanwhile cannot be connected to itself.
    """
    if preferred is not None and port_is_free(preferred):
        return preferred
    return _ports.take()


class _Ports:
    """The ports that this process gives away: a block of ports that it reserves for its lifetime.

    Between the choice of a port and the start of its server, and while a server is stopped, no socket holds the port.
    Two concurrent runs must not choose the same port, so each has its own block. A process binds the first port of its
    block for its lifetime, which no other process can do then. The kernel always releases it, so no file can be left
    behind.
    """

    FIRST, LAST = 20_000, 32_000
    #: A run uses the ports of its block in turn, and reuses a port only long after its server has ended.
    BLOCK = 300

    def __init__(self) -> None:
        self._held: socket.socket | None = None
        self._pid = 0
        self._turn: Iterator[int] = iter(())
        self._lock = threading.Lock()

    def take(self) -> int:
        """Return the next free port of the block."""
        with self._lock:
            if self._pid != os.getpid():  # a fork shares the block of its parent, but needs its own position
                self._turn = itertools.cycle(self._take_block())
                self._pid = os.getpid()
            for port in itertools.islice(self._turn, self.BLOCK):
                if port_is_free(port):
                    return port
        raise OSError("no port is free in this process's block")

    def _take_block(self) -> range:
        starts = list(range(self.FIRST, self.LAST, self.BLOCK))
        # Not the common generator: tests seed it, and would all try the same blocks first.
        random.SystemRandom().shuffle(starts)
        for start in starts:
            held = _bind(start, reuse=False)
            if held is not None:
                self._held = held
                atexit.register(held.close)
                return range(start + 1, start + self.BLOCK)
        raise OSError(f"no block of ports is free between {self.FIRST} and {self.LAST}")


_ports = _Ports()


def _bind(port: int, *, reuse: bool) -> socket.socket | None:
    """Bind a socket to a loopback port, or return None if it is in use."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if reuse:  # a port with only closed connections counts as free, as for a server
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((LOOPBACK, port))
    except OSError:
        bound.close()
        return None
    return bound


class Process:
    """A child process in its own process group, with its output in a log file."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | os.PathLike[str]],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Start ``command``.

        Args:
            name: the name in messages.
            command: the program and its arguments.
            log: the file to which stdout and stderr are appended.
            env: added to this process's environment.
            cwd: the working directory, by default this process's.
        """
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._popen = subprocess.Popen(  # noqa: S603  # only our own commands
                [os.fspath(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,
            )

    def __repr__(self) -> str:
        state = "running" if self.is_running else f"ended with exit status {self._popen.returncode}"
        return f"<Process {self.name} {self.pid} {state}>"

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its group."""
        return self._popen.pid

    @property
    def is_running(self) -> bool:
        """Whether the process itself, not only a child of it, is running."""
        return self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        """The exit status; minus the signal number if a signal ended it; None while it runs."""
        return self._popen.poll()

    def read_log(self) -> str:
        """Return the output so far."""
        return self.log.read_text(errors="replace")

    def wait_for_log(self, text: str, *, seconds: float = PATIENCE) -> None:
        """Wait until the log contains ``text``.

        Raises RuntimeError as soon as the process has ended without it, and TimeoutError after ``seconds``.
        """

        def found() -> bool:
            if text in self.read_log():
                return True
            if not self.is_running:
                raise RuntimeError(f"{self.name} ended with exit status {self.returncode}:\n{self.read_log()[-4000:]}")
            return False

        wait_until(found, seconds=seconds, what=f"{text!r} in the log of {self.name}")

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal only to the process."""
        if self.is_running:
            self._popen.send_signal(number)

    def send_signal_to_group(self, number: signal.Signals) -> None:
        """Send a signal to the process and all its children."""
        # The group keeps the id reserved while it has a member, so this cannot reach another process.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def wait(self, *, seconds: float) -> int:
        """Wait for the end and return the exit status. Raises TimeoutError after ``seconds``."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} is still running after {seconds:g} seconds") from None

    def end(self, *, seconds: float = 10) -> None:
        """Terminate the process, and after ``seconds`` kill the rest of it and its children."""
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
    """All the children of one program. Leaving the context ends them, the youngest first."""

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
        """Return the children that have not ended."""
        return [process for process in self._started if process.is_running]

    def end(self, *, seconds: float = 10) -> None:
        """End all children within about ``seconds``: signal each one first, then wait for each."""
        # A second Ctrl-C must not interrupt this, because a child would be left behind.
        with deaf_to_signals():
            for process in reversed(self._started):
                process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + seconds
            while self._started:
                process = self._started.pop()
                # Not signalled twice: a second signal makes a worker stop immediately.
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
    """Ignore Ctrl-C and SIGTERM for a moment. Does nothing outside the main thread."""
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
    """Make the first Ctrl-C, SIGTERM or SIGHUP unwind the program, so that its contexts end their children."""

    def leave(number: int, frame: FrameType | None) -> None:
        for other in ENDINGS:
            signal.signal(other, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    for number in ENDINGS:
        signal.signal(number, leave)
