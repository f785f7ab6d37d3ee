"""A RabbitMQ server for the tests, from Debian's package, with the failures of a broker."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

from amqp import Connection
from amqp.exceptions import NotFound
from django.conf import settings

from config.local.processes import LOOPBACK, Process, free_port, wait_until

#: Debian's path of the server itself. The script on the PATH uses a system user and the files of the whole machine.
_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


class RabbitMQ:
    """A server on loopback that keeps all its files in ``folder``, as root or not. A restart keeps its port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port, self._peers, self._names = free_port(), free_port(), free_port()
        self._process: Process | None = None
        self._epmd: Process | None = None

    @property
    def url(self) -> str:
        """The URL of its virtual host."""
        return f"amqp://guest:guest@{self.address}//"

    @property
    def address(self) -> str:
        """Its host and port."""
        return f"{LOOPBACK}:{self._port}"

    def start(self) -> None:
        """Start, and wait until it answers. Does nothing if it is running."""
        if self._process is not None and self._process.is_running:
            return
        if not _SERVER.exists():
            raise FileNotFoundError(f"{_SERVER} is not installed; see tests/debian-packages.txt")
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "rabbitmq.conf").write_text("disk_free_limit.absolute = 1MB\n")
        environment = {
            "HOME": str(self._folder),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_EPMD_PORT": str(self._names),
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_DIST_PORT": str(self._peers),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "plugins"),
            "RABBITMQ_LOG_BASE": str(self._folder / "log"),
            "RABBITMQ_MNESIA_BASE": str(self._folder / "data"),
            "RABBITMQ_NODENAME": f"mail-{self._port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
            "RABBITMQ_NODE_PORT": str(self._port),
            "RABBITMQ_PID_FILE": str(self._folder / "pid"),
        }
        if self._epmd is None:
            # Erlang's name server. RabbitMQ would start one that outlives it.
            self._epmd = Process("epmd", ["epmd"], log=self._folder / "epmd.log", env=environment)
        self._process = Process("rabbitmq", [_SERVER], log=self._folder / "rabbitmq.log", env=environment)
        wait_until(self._answers, what=f"RabbitMQ on port {self._port}")

    def stop(self) -> None:
        """Stop in an orderly way: close all connections, lose all messages."""
        if self._process is not None and self._process.is_running:
            self.thaw()
            self.flush()
            self._process.end(seconds=30)

    def kill(self) -> None:
        """End as ``kill -9`` does."""
        if self._process is not None:
            self._process.kill()

    def end(self) -> None:
        """End it and its helper process."""
        for process in (self._process, self._epmd):
            if process is not None:
                process.kill()

    def freeze(self) -> None:
        """Stop answering while all connections stay open, as a half-open network does."""
        if self._process is not None:
            self._process.send_signal_to_group(signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue after ``freeze()``."""
        if self._process is not None:
            self._process.send_signal_to_group(signal.SIGCONT)

    def flush(self) -> None:
        """Delete the messages in our queues."""
        with self._connection() as connection:
            for queue in settings.CELERY_TASK_QUEUES:
                # A queue that was never declared closes the channel.
                with contextlib.suppress(NotFound):
                    connection.channel().queue_purge(queue.name)

    def waiting(self, queue: str) -> list[tuple[dict[str, Any], bytes | str]]:
        """Return the headers and bodies of the messages in a queue, oldest first.

        They return to it when the connection ends.
        """
        with self._connection() as connection, contextlib.suppress(NotFound):
            channel = connection.channel()
            waiting = iter(lambda: channel.basic_get(queue), None)
            return [(message.headers or {}, message.body) for message in waiting]
        return []

    def _answers(self) -> bool:
        if self._process is not None and not self._process.is_running:
            raise RuntimeError(f"RabbitMQ ended:\n{self._process.read_log()[-4000:]}")
        try:
            with self._connection():
                return True
        except OSError:
            return False

    def _connection(self) -> Connection:
        return Connection(host=self.address, connect_timeout=5, read_timeout=10)
