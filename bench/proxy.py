"""A TCP proxy that simulates distance: it delays all data, each way, without a limit on the data in transit."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket

from config.local.processes import LOOPBACK


class _End(asyncio.Protocol):
    """One end of a connection. It sends its data to its ``peer`` after ``delay`` seconds."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.peer: _End | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        asyncio.get_running_loop().call_later(self.delay, self._pass_on, data)

    def connection_lost(self, error: Exception | None) -> None:
        asyncio.get_running_loop().call_later(self.delay, self._pass_on, None)

    def _pass_on(self, data: bytes | None) -> None:
        peer = self.peer.transport if self.peer is not None else None
        if peer is None or peer.is_closing():
            return
        if data is None:
            peer.close()
        else:
            peer.write(data)


class _Client(_End):
    """The client's end. The kernel has already accepted the connection, so the delay of SYN and ACK is added here."""

    def __init__(self, delay: float, port: int) -> None:
        super().__init__(delay)
        self._port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._opening = asyncio.ensure_future(self._open())

    async def _open(self) -> None:
        # SYN there, SYN/ACK back, ACK there. The greeting gets its delay as all data does.
        await asyncio.sleep(3 * self.delay)
        with contextlib.suppress(OSError):
            _, other = await asyncio.get_running_loop().create_connection(
                lambda: _End(self.delay), LOOPBACK, self._port
            )
            other.peer, self.peer = self, other


async def _serve(port: int, to: int, delay: float) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: _Client(delay, to), LOOPBACK, port, backlog=512)
    print("ready", flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--to", type=int, required=True, help="port to which all data is forwarded")
    parser.add_argument("--delay", type=float, required=True, help="seconds of delay in each direction")
    options = parser.parse_args()
    asyncio.run(_serve(options.port, options.to, options.delay))


if __name__ == "__main__":
    main()
