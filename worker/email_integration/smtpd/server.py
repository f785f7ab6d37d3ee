"""The server: its start and its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from .listener import Listener
from .state import OpenConnection, ServerState

MISSING = (
    "aiosmtpd, which the SMTP server for tests needs, is not installed: pip install 'celery-mail-dispatch[testing]'"
)


class SMTPServer(ServerState):
    """An SMTP server in a separate thread; it keeps its port when it is started again."""

    _listener: Listener | None = None

    @property
    def is_running(self) -> bool:
        """Whether it listens."""
        return self._listener is not None

    # Starting and stopping

    def start(self) -> None:
        """Listen; raises OSError when the port is in use, and ImportError when aiosmtpd is not installed.

        Raises RuntimeError when the server is running already.
        """
        if self._listener is not None:
            raise RuntimeError("The server is already running.")
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
        """Stop at once, as a crash does: open connections break without a reply."""
        self._stop(self._break_connections)

    def stop_politely(self) -> None:
        """Stop as RFC 5321 section 3.8 requires: refuse new connections, send 421 to the open ones, and close them."""
        self._stop(self._dismiss_connections)

    def drop_connections(self) -> None:
        """Break all open connections and continue to listen, as a firewall does that has lost its state."""
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
        """Call ``end`` for each connection until there are none, or for ``seconds``: a new one cannot be ended yet."""
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
