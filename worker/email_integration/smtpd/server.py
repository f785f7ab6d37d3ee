"""The server: what it is told, what it saw, its start and its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from .listener import Listener
from .state import OpenConnection, ServerState

MISSING = "aiosmtpd, the SMTP server of tests, is not installed: pip install 'celery-mail-dispatch[testing]'"


class SMTPServer(ServerState):
    """An SMTP server in a thread of its own; it stays on its port when started again."""

    _listener: Listener | None = None

    @property
    def is_running(self) -> bool:
        """Whether it listens."""
        return self._listener is not None

    # Starting and stopping

    def start(self) -> None:
        """Listen; raises OSError when the port is taken, and ImportError when there is no aiosmtpd."""
        if self._listener is not None:
            raise RuntimeError("the server runs already")
        try:
            from .connection import Connection
        except ImportError as error:
            raise ImportError(MISSING) from error
        self._listener = Listener(
            lambda loop: Connection(self, loop),
            port=self.port,
            tls_context=self.tls_context if self.security == "tls" else None,
        )
        self.port = self._listener.port

    def stop(self) -> None:
        """Go away at once, as a crash does: open connections break without a word."""
        self._stop(self._break_connections)

    def stop_politely(self) -> None:
        """Go away as RFC 5321 section 3.8 wants it: refuse new connections, say 421 to the open ones, close them."""
        self._stop(self._dismiss_connections)

    def drop_connections(self) -> None:
        """Break all open connections and go on listening, as a firewall that forgot them does."""
        if self._listener is not None:
            self._listener.run(self._break_connections(), seconds=10)

    def _stop(self, end_connections: Callable[[], Awaitable[None]]) -> None:
        if self._listener is not None:
            self._listener.stop(end_connections)
            self._listener = None

    async def _dismiss_connections(self) -> None:
        await self._end_connections(lambda one: one.dismiss(), seconds=0.3)
        await self._break_connections()

    async def _break_connections(self) -> None:
        await self._end_connections(lambda one: one.abort(), seconds=2)

    async def _end_connections(self, end: Callable[[OpenConnection], None], *, seconds: float) -> None:
        """Until there are none, or for so long: one that was accepted a moment ago cannot be ended yet."""
        deadline = time.monotonic() + seconds
        while self.connections and time.monotonic() < deadline:
            for connection in list(self.connections):
                end(connection)
            await asyncio.sleep(0.005)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
