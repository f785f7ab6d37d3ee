"""Child processes end with their parent, however the parent ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from config.local.processes import PATIENCE, Process, Processes, free_port, port_is_free, wait_until
from config.local.valkey import Valkey
from tests.stack import ROOT

#: A child that ignores the request to end, with its own child.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("pids", grandchild.pid, flush=True)
time.sleep(60)
"""

#: A parent of that child, ended by a signal.
PARENT = """
import sys, time
from pathlib import Path
from config.local.processes import Processes, unwind_on_signals
unwind_on_signals()
with Processes(Path(sys.argv[1])) as processes:
    processes.start("child", [sys.executable, "-c", sys.argv[2]]).wait_for_log("pids")
    processes.end = lambda seconds=0.2: Processes.end(processes, seconds=seconds)
    print("ready", flush=True)
    time.sleep(60)
"""


def is_alive(pid: int) -> bool:
    """Return whether the process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def grandchild_of(log: Path) -> int:
    return int(log.read_text().split()[1])


def test_a_child_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        child = processes.start("child", [sys.executable, "-c", STUBBORN])
        child.wait_for_log("pids")
        processes.end(seconds=0.2)
        assert child.returncode == -signal.SIGKILL
        assert not is_alive(grandchild_of(child.log))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_parent_ends_its_children(tmp_path: Path, number: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), STUBBORN], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        parent.send_signal(number)
        parent.wait(PATIENCE)
    assert not is_alive(grandchild_of(tmp_path / "child.log"))


def test_waiting_for_a_log_reports_an_early_end(tmp_path: Path) -> None:
    child = Process("child", [sys.executable, "-c", "print('no luck')"], log=tmp_path / "log")
    with pytest.raises(RuntimeError, match="no luck"):
        child.wait_for_log("ready")


def test_waiting_has_a_deadline_that_says_what_was_waited_for() -> None:
    with pytest.raises(TimeoutError, match="the moon"):
        wait_until(lambda: False, seconds=0.05, what="the moon")


def test_a_preferred_port_is_used_if_it_is_free(valkey: Valkey) -> None:
    assert free_port(valkey.port) != valkey.port
    port = free_port()
    assert free_port(port) == port


def test_no_port_is_given_to_two_processes_and_none_soon_again() -> None:
    """This holds even if no server listens on the port: two test runs start and stop their servers side by side."""
    program = "from config.local.processes import free_port; print(*(free_port() for _ in range(100)))"
    others = [
        subprocess.Popen([sys.executable, "-c", f"{program}; input()"], cwd=ROOT, stdin=-1, stdout=-1, text=True)
        for _ in range(3)
    ]
    given = [[str(free_port()) for _ in range(100)]]
    try:
        for other in others:
            assert other.stdout is not None
            given.append(other.stdout.readline().split())
    finally:
        for other in others:
            other.communicate("\n")
    ports = [port for block in given for port in block]
    assert len(set(ports)) == len(ports) == 400


def test_valkey_stops_freezes_and_starts_again_on_its_port(tmp_path: Path) -> None:
    with Valkey(tmp_path) as valkey:
        url = valkey.url
        valkey.freeze()
        assert valkey.is_running
        valkey.thaw()
        valkey.flush()
        valkey.kill()
        assert port_is_free(valkey.port)
        assert not valkey.is_running
        valkey.start()
        valkey.flush()
        assert valkey.url == url
    assert not valkey.is_running
    assert os.listdir(tmp_path) == ["valkey.log"]
