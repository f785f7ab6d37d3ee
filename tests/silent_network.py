"""A separate network that falls silent: no more replies, and no errors.

To stop a forwarding program is not the same: the kernel below it continues to acknowledge data.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from config.local.processes import PATIENCE, Process

#: Forwards connections to any address of the network to a Unix socket, and back.
_FORWARD = """
import asyncio, sys
async def copy(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()
async def serve(reader, writer):
    other = await asyncio.open_unix_connection(sys.argv[2])
    await asyncio.gather(copy(reader, other[1]), copy(other[0], writer), return_exceptions=True)
async def main():
    async with await asyncio.start_server(serve, "0.0.0.0", int(sys.argv[1])) as server:
        print("listening", flush=True)
        await server.serve_forever()
asyncio.run(main())
"""


class SilentNetwork:
    """Two addresses, ``first`` and ``second``. Each reaches a Unix socket at ``port`` until it is silenced.

    It is a network namespace and a pair of interfaces, which needs root and CAP_NET_ADMIN.
    """

    port = 5432

    def __init__(self, socket: Path, folder: Path) -> None:
        self._socket = socket
        self._folder = folder
        number = os.getpid()
        self._name = f"silent{number}"
        self._outside = f"{self._name}o"[-15:]
        prefix = f"10.{200 + number // 250 % 50}.{number % 250}"
        self._host, self.first, self.second = (f"{prefix}.{last}" for last in (1, 2, 3))
        self._forwarder: Process | None = None

    def start(self) -> None:
        """Create it, and wait until it forwards."""
        if os.geteuid() != 0 or shutil.which("ip") is None:
            raise RuntimeError("needs root, and 'ip' of iproute2")
        self._remove()  # a killed process with the same number may have left it
        outside, inside = self._outside, f"{self._name}i"[-15:]
        _ip("netns", "add", self._name)
        _ip("link", "add", outside, "type", "veth", "peer", "name", inside)
        _ip("link", "set", inside, "netns", self._name)
        _ip("addr", "add", f"{self._host}/29", "dev", outside)
        _ip("link", "set", outside, "up")
        for address in (self.first, self.second):
            self._within("addr", "add", f"{address}/29", "dev", inside)
        self._within("link", "set", inside, "up")
        command = ["ip", "netns", "exec", self._name, sys.executable, "-c", _FORWARD, str(self.port), str(self._socket)]
        self._forwarder = Process("forwarder", command, log=self._folder / "forwarder.log", env={}, cwd=self._folder)
        self._forwarder.wait_for_log("listening")

    def silence(self, address: str) -> None:
        """Drop all packets from ``address``, even acknowledgements and resets."""
        self._within("rule", "add", "from", address, "type", "blackhole")

    def stop(self) -> None:
        """Remove it, even if it was only partly created."""
        if self._forwarder is not None:
            self._forwarder.kill()
        self._remove()

    def _remove(self) -> None:
        for what in (["netns", "del", self._name], ["link", "del", self._outside]):
            subprocess.run(["ip", *what], check=False, capture_output=True, timeout=PATIENCE)

    def _within(self, *arguments: str) -> None:
        _ip("-n", self._name, *arguments)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
