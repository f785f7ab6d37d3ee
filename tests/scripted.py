"""An SMTP server that follows a test's script line by line, for behaviour that no correct server shows."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from config.local.processes import PATIENCE


class Conversation:
    """One connection, seen from the server."""

    def __init__(self, connection: socket.socket, heard: list[bytes]) -> None:
        self.connection = connection
        self.file = connection.makefile("rb")
        self.heard = heard

    def secure(self, context: ssl.SSLContext) -> None:
        """Start TLS on the connection, after the 220 to STARTTLS."""
        self.file.close()
        self.connection = context.wrap_socket(self.connection, server_side=True)
        self.file = self.connection.makefile("rb")

    def say(self, *lines: str) -> None:
        """Send the lines, all at once."""
        self.connection.sendall("".join(f"{line}\r\n" for line in lines).encode())

    def hear(self) -> bytes:
        """Return the next line, without its end, or b'' at the end of the connection."""
        line = self.file.readline().rstrip(b"\r\n")
        self.heard.append(line)
        return line

    def hear_until(self, verb: str) -> list[bytes]:
        """Return the lines up to the one that begins with the verb, or up to the end of the connection."""
        lines = []
        while line := self.hear():
            lines.append(line)
            if line.upper().startswith(verb.encode()):
                break
        return lines

    def hear_content(self) -> bytes:
        """Return the unchanged content up to the final dot, or up to the end of the connection."""
        content = b""
        while (line := self.file.readline()) not in (b".\r\n", b""):
            content += line
        self.heard.append(line.rstrip())
        return content

    def answer(self, **replies: str | list[str]) -> None:
        """Greet, and answer each verb from ``replies``, or as usual, until the client closes the connection.

        A list has one reply for each occurrence of the verb. Its last reply is repeated.
        """
        self.say(str(replies.get("CONNECT", "220 localhost")))
        self.go_on(**replies)

    def go_on(self, **replies: str | list[str]) -> None:
        """Do the same as ``answer`` after the greeting."""
        usual = {"EHLO": "250 localhost", "DATA": "354 go on", "QUIT": "221 bye"}
        while line := self.hear():
            verb = line.split()[0].decode().upper()
            reply = replies.get(verb, usual.get(verb, "250 ok"))
            if isinstance(reply, list):
                reply = reply.pop(0) if len(reply) > 1 else reply[0]
            self.say(*reply.split("\n"))
            if verb == "DATA" and reply.startswith("354"):
                self.hear_content()
                self.say(str(replies.get("DOT", "250 taken")))
            if reply.startswith("221"):
                return


class ScriptedServer:
    """Listens on loopback, in a thread. Each connection is one call of ``script``, under TLS if there is a context."""

    def __init__(
        self,
        script: Callable[[Conversation], None],
        *,
        tls_context: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self._script = script
        self._tls_context = tls_context
        #: The received lines of all connections.
        self.heard: list[bytes] = []
        self.connections = 0
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self._open: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                self._talk(connection)
            except OSError:
                pass  # the client has closed the connection

    def _talk(self, connection: socket.socket) -> None:
        if self._tls_context is not None:
            connection = self._tls_context.wrap_socket(connection, server_side=True)
        self._open.append(connection)
        with connection:
            conversation = Conversation(connection, self.heard)
            try:
                self._script(conversation)
            finally:
                conversation.file.close()
                conversation.connection.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in (self._listener, *self._open):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # already closed
            one.close()
        self._thread.join(PATIENCE)
