"""Profile the CPU of our mails: py-spy on the submitter and the worker, in a run that is not timed."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

from bench import measure
from bench.bench import Bench, Result
from bench.contenders import OURS
from bench.environments import prepare, program
from bench.running import Running

#: A sample counts for the innermost of our functions, which called the library functions below it.
_OURS = re.compile(r"(\S+) \(\S*?\bemail_integration/(\S+?)(?::\d+)?\)")
#: A sample without a function of ours counts for the library: the innermost match.
_LIBRARY = re.compile(r"\S+ \(\S*?\b(celery|kombu|redis|billiard|django)/(\w+)")
_SHOWN = 8
#: The innermost call of an idle process, which py-spy does not recognise as idle.
_WAITS = re.compile(r"_epoll\.poll \([^;]*$")


def profile(bench: Bench) -> Result:
    """The functions of this project that use the CPU, while mails are sent one by one and in bulk."""
    prepare("tools")
    (ours,) = bench.running((OURS,), bench.services.front())
    result = Result(
        name="profile",
        title="CPU by function, loopback, plain",
        columns=("process", "part", "share of its samples"),
        remarks=[
            "The samples are those of py-spy at 200 Hz, without threads that wait, so the shares are rough. A sample "
            "counts for the innermost function of this project, including its calls into Django, psycopg and Celery. "
            "A sample without such a function counts for the library."
        ],
    )
    for kind, mails, together in (("one by one", bench.pick(200, 800), 0), ("in bulk", bench.pick(500, 4_000), 1_000)):
        for process, stacks in _sample(bench, ours, mails, together).items():
            parts: Counter[str] = Counter()
            for stack, number in stacks.items():
                parts[part(stack)] += number
            group, total = f"{kind}: {process}", max(1, parts.total())
            result.rows += [(group, part, f"{100 * each / total:.0f} %") for part, each in parts.most_common(_SHOWN)]
            result.data[group] = dict(parts)
    return result


def part(stack: str) -> str:
    """Return the function or library that a sample counts for. A stack begins with the outermost call."""
    frames = stack.split(";")[::-1]
    if found := next(filter(None, map(_OURS.match, frames)), None):
        return f"{found[2]} {found[1]}()"
    if found := next(filter(None, map(_LIBRARY.match, frames)), None):
        return f"{found[1]}.{found[2]}"
    return "Python"


def _sample(bench: Bench, ours: Running, mails: int, together: int) -> dict[str, Counter[str]]:
    """Return the stacks of each of our processes while ``mails`` mails are sent."""
    main, *pool = measure.tree(ours.workers[0].pid)
    with contextlib.ExitStack() as stack, ours.awake():
        ours.round(6)
        recorders = {}
        for pid in (ours.driver.pid, main, *pool):
            recorders[pid] = _Recorder(pid, bench.services.folder / f"profile-{pid}-{together}")
            stack.callback(recorders[pid].end)
        time.sleep(1.5)  # py-spy does not report when it has begun
        ours.round(mails, together=together)
        stacks = {pid: recorder.finish() for pid, recorder in recorders.items()}
    return {
        "caller": stacks[ours.driver.pid],
        "worker, pool processes": sum((stacks[pid] for pid in pool), Counter()),
        "worker, main process": stacks[main],
    }


class _Recorder:
    def __init__(self, pid: int, output: Path) -> None:
        command = [program("tools", "py-spy"), "record", "--pid", str(pid), "--rate", "200", "--nonblocking"]
        command += ["--format", "raw", "--duration", "600", "--output", str(output)]
        self._output = output
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def finish(self) -> Counter[str]:
        """Return the stacks, with the number of samples of each."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(20)
        stacks: Counter[str] = Counter()
        for line in self._output.read_text().splitlines():
            stack, _, number = line.rpartition(" ")
            if not _WAITS.search(stack):
                stacks[stack] += int(number)
        return stacks

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
