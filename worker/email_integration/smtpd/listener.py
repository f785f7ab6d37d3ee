"""The thread with the event loop that listens."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

LOOPBACK = "127.0.0.1"

T = TypeVar("T")


class Listener:
    """A port on loopback, served by an event loop in a separate thread; it can be started once."""

    def __init__(
        self,
        connect: Callable[[asyncio.AbstractEventLoop], asyncio.BaseProtocol],
        *,
        port: int,
        tls_context: ssl.SSLContext | None,
    ) -> None:
        """Listen; raises OSError when the port is in use.

        Args:
            connect: makes the protocol of a connection.
            port: the port to listen on; 0 for a free one, which ``port`` then names.
            tls_context: for TLS from the first byte; None for none.
        """
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_ignore_broken_connections)
        self._thread = threading.Thread(target=self._loop.run_forever, name="smtpd", daemon=True)
        self._thread.start()
        listening = self._loop.create_server(lambda: connect(self._loop), LOOPBACK, port, ssl=tls_context)
        try:
            self._server = self.run(listening, seconds=30)
        except BaseException:
            self._end()
            raise
        self.port: int = self._server.sockets[0].getsockname()[1]

    def run(self, work: Coroutine[Any, Any, T], *, seconds: float) -> T:
        """Run ``work`` in the thread, wait for it up to ``seconds``, and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def stop(self, end_connections: Callable[[], Awaitable[None]]) -> None:
        """Accept no more connections, end the open ones, and end the thread."""

        async def stop() -> None:
            # A connection that a server accepts just before it is closed is never reported: first stop accepting.
            for listening in self._server.sockets:
                self._loop.remove_reader(listening.fileno())
            await asyncio.sleep(0)
            self._server.close()
            await end_connections()
            await self._server.wait_closed()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.run(stop(), seconds=30)
        self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _ignore_broken_connections(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if not isinstance(context.get("exception"), OSError):
        loop.default_exception_handler(context)
