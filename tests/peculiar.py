"""An SMTP server with the behaviour of other implementations. Each kind overrides some answers."""

from __future__ import annotations

import contextlib
import email
import socket
import threading
from collections import Counter
from types import TracebackType
from typing import Self

from config.local.processes import PATIENCE


class HangUp(Exception):
    """Close the connection, after this reply if it is not empty."""


class Peer:
    """One connection, seen by the server."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.in_content = self.in_transaction = False
        self.recipients: list[str] = []
        #: On this connection so far: accepted MAIL commands, accepted mails, named recipients.
        self.begun = self.mails = self.named = 0

    def say(self, reply: str) -> None:
        """Send a reply; '' sends nothing."""
        if reply:
            self.connection.sendall("".join(f"{line}\r\n" for line in reply.split("\n")).encode())


class PeculiarServer:
    """Accepts everything, on loopback, with a thread for each connection.

    A kind of server overrides the methods. Each returns a reply or '' for silence, or raises ``HangUp``.
    """

    #: The extensions in the reply to EHLO.
    offers: tuple[str, ...] = ("PIPELINING", "8BITMIME", "SMTPUTF8")

    def __init__(self) -> None:
        #: How often each recipient got each mail, by address and Message-ID.
        self.arrived: Counter[tuple[str, str]] = Counter()
        #: How often each verb was received, and how many connections there were.
        self.verbs: Counter[str] = Counter()
        #: The mechanisms of login attempts.
        self.tried: list[str] = []
        self.connections = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    # -- answers that a kind of server overrides ----------------------------------------------------------------

    def greeting(self, peer: Peer) -> str:
        return "220 localhost"

    def mail(self, peer: Peer, line: str) -> str:
        return "250 ok"

    def rcpt(self, peer: Peer, address: str) -> str:
        return "250 ok"

    def data(self, peer: Peer) -> str:
        return "354 go on" if peer.recipients else "503 no recipients"

    def dot(self, peer: Peer, content: bytes) -> str:
        return "250 ok queued"

    def other(self, peer: Peer, line: str) -> str:
        """Return the reply to a verb that is not part of a transaction."""
        verb = line.split()[0].upper() if line.split() else ""
        if verb == "EHLO":
            return "\n".join(["250-localhost", *(f"250-{offer}" for offer in self.offers), "250 HELP"])
        if verb == "RSET":
            self.end(peer)
        if verb == "QUIT":
            raise HangUp("221 bye")
        return "250 ok"

    def heeds(self, lines: list[str]) -> list[str]:
        """Return those of the pipelined commands that the server sees."""
        return lines

    def along_with_the_dot(self, lines: list[str]) -> list[str] | None:
        """Return the replies to lines that arrived together with a final dot, or None to answer them as usual."""
        return None

    def time_passes(self) -> None:
        """Let a minute, or another unit of the server's limits, pass."""

    # -- implementation -----------------------------------------------------------------------------------------

    def end(self, peer: Peer) -> None:
        """Leave the transaction."""
        peer.in_transaction, peer.recipients = False, []

    def take(self, peer: Peer, content: bytes) -> None:
        """Deliver to all named recipients."""
        message = email.message_from_bytes(content)
        with self._lock:
            self.arrived.update((address, str(message["Message-ID"])) for address in peer.recipients)
        peer.mails += 1

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.connections += 1
                self._open.append(connection)
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        peer = Peer(connection)
        with connection, contextlib.suppress(OSError):
            try:
                peer.say(self.greeting(peer))
                self._listen(peer)
            except HangUp as last:
                peer.say(str(last))

    def _listen(self, peer: Peer) -> None:
        buffer = b""
        while came := peer.connection.recv(1 << 20):
            buffer += came
            while rest := self._heard(peer, buffer):
                if rest == buffer:
                    break
                buffer = rest
            else:
                buffer = b""

    def _heard(self, peer: Peer, buffer: bytes) -> bytes:
        """Answer the complete part of the buffer, up to a final dot or the start of a content, and return the rest."""
        if peer.in_content:
            content, dot, rest = buffer.partition(b"\r\n.\r\n")
            if not dot:
                return buffer
            peer.in_content = False
            reply = self.dot(peer, content)
            if reply.startswith("2"):
                self.take(peer, content)
            self.end_after(peer, reply)
            peer.say(reply)
            lines, rest_of_line = self._lines(rest)
            replies = self.along_with_the_dot(lines) if lines else None
            if replies is None:
                return rest
            for line in replies:
                peer.say(line)
            return rest_of_line
        lines, rest = self._lines(buffer)
        for line in self.heeds(lines) if len(lines) > 1 else lines:
            peer.say(self._answer(peer, line))
        return rest

    def end_after(self, peer: Peer, reply: str) -> None:
        """Change the transaction after a reply to the final dot."""
        self.end(peer)

    @staticmethod
    def _lines(buffer: bytes) -> tuple[list[str], bytes]:
        whole, end, rest = buffer.rpartition(b"\r\n")
        return (whole + end).decode().splitlines(), rest

    def _answer(self, peer: Peer, line: str) -> str:
        verb = line.split(":")[0].upper()
        with self._lock:
            self.verbs[verb.split()[0] if verb.split() else ""] += 1
        if verb == "MAIL FROM":
            if peer.in_transaction:
                return "503 5.5.1 nested MAIL command"
            reply = self.mail(peer, line)
            if reply.startswith("2"):
                peer.in_transaction = True
                peer.begun += 1
            return reply
        if verb == "RCPT TO":
            if not peer.in_transaction:
                return "503 5.5.1 need MAIL command"
            peer.named += 1
            address = line.partition("<")[2].rpartition(">")[0]
            reply = self.rcpt(peer, address)
            if reply.startswith("2"):
                peer.recipients.append(address)
            return reply
        if verb == "DATA":
            if not peer.in_transaction:
                return "503 5.5.1 need MAIL command"
            reply = self.data(peer)
            peer.in_content = reply.startswith("3")
            return reply
        if verb.startswith("AUTH "):
            self.tried.append(verb.split()[1])
        return self.other(peer, line)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._thread.join(PATIENCE)
