"""The thread with the event loop that listens."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from config.local.processes import LOOPBACK


class Listener:
    """A port on loopback, served by an event loop in a thread of its own; good for one start."""

    def __init__(
        self,
        connect: Callable[[asyncio.AbstractEventLoop], asyncio.BaseProtocol],
        *,
        port: int,
        tls_context: ssl.SSLContext | None,
    ) -> None:
        """Listen; raises OSError when the port is taken.

        Args:
            connect: makes the protocol of a connection.
            port: where to listen.
            tls_context: for TLS from the first byte; None for none.
        """
        self._connect = connect
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_ignore_broken_connections)
        self._server: asyncio.Server | None = None
        self._started = threading.Event()
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(
            target=self._run, args=(port, tls_context), name=f"smtp-server-{port}", daemon=True
        )
        self._thread.start()
        self._started.wait()
        if self._errors:
            self._thread.join()
            raise self._errors[0]

    def _run(self, port: int, tls_context: ssl.SSLContext | None) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        try:
            self._server = loop.run_until_complete(
                loop.create_server(lambda: self._connect(loop), host=LOOPBACK, port=port, ssl=tls_context)
            )
        except BaseException as error:  # handed to whoever starts this
            self._errors.append(error)
        finally:
            loop.call_soon(self._started.set)
            if self._errors:
                self._started.set()
        try:
            if not self._errors:
                loop.run_forever()
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
            asyncio.set_event_loop(None)

    def run(self, work: Coroutine[Any, Any, None], *, seconds: float) -> None:
        """Do this in the thread, and wait for it."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def stop(self, end_connections: Callable[[], Awaitable[None]]) -> None:
        """Take no more connections, end the open ones, and end the thread."""

        async def stop() -> None:
            if self._server is not None:
                # Whom a closed server has just accepted is never told of it: first it accepts nobody any more.
                for listening in self._server.sockets:
                    self._loop.remove_reader(listening.fileno())
                await asyncio.sleep(0)
                self._server.close()
            await end_connections()
            if self._server is not None:
                await self._server.wait_closed()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.run(stop(), seconds=30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def _ignore_broken_connections(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if not isinstance(context.get("exception"), OSError):
        loop.default_exception_handler(context)
