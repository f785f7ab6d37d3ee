"""A small SMTP server on loopback: a thread for each connection, everything taken unless a fault says otherwise."""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import threading

from .faults import Fault, Faults, Verb
from .mails import ReceivedMail, received_mail

#: RFC 1870: the largest mail in octets.
_SIZE = 64 * 1024 * 1024

_OFFERS = ("localhost", "PIPELINING", f"SIZE {_SIZE}", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "AUTH PLAIN")

#: RFC 5321 §4.1.1: MAIL and RCPT with their path and parameters.
_PATH = re.compile(r"(?:FROM|TO):\s*<(.*)>\s*(.*)", re.I)


class _Over(Exception):
    """The connection ends here."""


class Server:
    """Listens from ``start`` to ``stop``; ``messages`` are the mails it has taken, in that order."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.messages: list[ReceivedMail] = []
        #: Who logged in, in that order.
        self.logins: list[str] = []
        #: How many connections there were.
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = "127.0.0.1"
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._stopping = False
        self._open: dict[socket.socket, threading.Thread] = {}
        self._thread = threading.Thread(target=self._listen, name=f"FakeRelay:{self.port}", daemon=True)

    def start(self) -> None:
        """Take connections from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Close everything and wait for the threads."""
        with self._lock:
            self._stopping = True
        # Closing a socket does not wake who waits in accept() for it; a connection does, everywhere.
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), timeout=1):
            self._thread.join(5)
        self._listener.close()
        with self._lock:
            still_open = dict(self._open)
        for connection, thread in still_open.items():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                connection.shutdown(socket.SHUT_RDWR)
            thread.join(5)

    def _listen(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with self._lock:
                if self._stopping:
                    connection.close()
                    return
                self.connections += 1
                thread = threading.Thread(target=self._serve, args=(connection,), name=self._thread.name, daemon=True)
                self._open[connection] = thread
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(_Over, OSError):  # the client has gone
            _Conversation(self, connection).run()
        with self._lock:
            connection.close()
            del self._open[connection]


class _Conversation:
    """One connection, from greeting to end."""

    def __init__(self, server: Server, connection: socket.socket) -> None:
        self._server = server
        self._connection = connection
        self._file = connection.makefile("rb")
        self._forget()

    def _forget(self) -> None:
        self._sender: str | None = None
        self._recipients: list[str] = []

    def run(self) -> None:
        """Answer until the client has gone. Raises ``_Over`` and ``OSError``."""
        with self._file:
            self._answer("CONNECT", "", "220 localhost ESMTP")
            while True:
                line = self._line().decode("utf-8", "replace").rstrip("\r\n")
                verb, _, rest = line.partition(" ")
                handle = _COMMANDS.get(verb.upper())
                if handle is None:
                    self._say("500 5.5.2 Unknown command")
                else:
                    handle(self, rest.strip())

    def _hello(self, rest: str) -> None:
        self._forget()
        *first, last = _OFFERS
        self._answer("EHLO", rest, *(f"250-{offer}" for offer in first), f"250 {last}")

    def _auth(self, rest: str) -> None:
        mechanism, _, response = rest.partition(" ")
        if mechanism.upper() != "PLAIN":
            self._say("504 5.5.4 Only PLAIN")
            return
        if not response:
            self._say("334 ")
            response = self._line().decode("ascii", "replace").strip()
        fault = self._server.faults.take("AUTH", "")
        if fault is None:  # noted before the reply, as a mail is
            self._server.logins.append(base64.b64decode(response).split(b"\0")[1].decode())
        self._obey(fault) if fault else self._say("235 2.7.0 Welcome")

    def _mail(self, rest: str) -> None:
        path = _PATH.fullmatch(rest)
        size = re.search(r"\bSIZE=(\d+)", path[2], re.I) if path else None
        if path is None:
            self._say("501 5.5.4 Syntax: MAIL FROM:<address>")
        elif size and int(size[1]) > _SIZE:
            self._say("552 5.3.4 Too big")
        elif self._answer("MAIL", rest, "250 2.1.0 Sender OK"):
            self._forget()
            self._sender = path[1]

    def _rcpt(self, rest: str) -> None:
        path = _PATH.fullmatch(rest)
        if path is None:
            self._say("501 5.5.4 Syntax: RCPT TO:<address>")
        elif self._sender is None:
            self._say("503 5.5.1 MAIL first")
        elif self._answer("RCPT", rest, "250 2.1.5 Recipient OK"):
            self._recipients.append(path[1])

    def _data(self, rest: str) -> None:
        if not self._recipients:
            self._say("503 5.5.1 No valid recipients")
            return
        envelope = " ".join((self._sender or "", *self._recipients))
        if not self._answer("DATA", envelope, "354 Go on"):
            return
        content = self._content()
        mail = received_mail(sender=self._sender or "", recipients=self._recipients, content=content)
        self._forget()
        fault = self._server.faults.take("DOT", f"{envelope}\n{content.decode('utf-8', 'replace')}")
        if fault is None or fault.taken:
            self._server.messages.append(mail)  # before the reply: who has heard it finds the mail
        self._obey(fault) if fault else self._say("250 2.0.0 Taken")

    def _content(self) -> bytes:
        """Read up to the final dot, without it and without dot-stuffing (RFC 5321 §4.5.2)."""
        lines = []
        while (line := self._line()) != b".\r\n":
            lines.append(line[1:] if line.startswith(b".") else line)
        return b"".join(lines)

    def _rset(self, rest: str) -> None:
        self._forget()
        self._say("250 2.0.0 OK")

    def _noop(self, rest: str) -> None:
        self._say("250 2.0.0 OK")

    def _quit(self, rest: str) -> None:
        self._say("221 2.0.0 Bye")
        raise _Over

    def _answer(self, verb: Verb, text: str, *usual: str) -> bool:
        """Answer as usual and say True, unless a fault wants it otherwise."""
        fault = self._server.faults.take(verb, text)
        if fault is None:
            self._say(*usual)
            return True
        self._obey(fault)
        return False

    def _obey(self, fault: Fault) -> None:
        if fault.what == "hang":
            while self._file.readline():
                pass  # until the client has had enough
        if fault.what != "reply":
            raise _Over
        self._say(fault.reply)
        if fault.verb == "CONNECT" or fault.reply.startswith("421"):  # RFC 5321 §3.8
            raise _Over

    def _line(self) -> bytes:
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise _Over
        return line

    def _say(self, *lines: str) -> None:
        self._connection.sendall("".join(f"{line}\r\n" for line in lines).encode())


_COMMANDS = {
    "EHLO": _Conversation._hello,
    "HELO": _Conversation._hello,
    "AUTH": _Conversation._auth,
    "MAIL": _Conversation._mail,
    "RCPT": _Conversation._rcpt,
    "DATA": _Conversation._data,
    "RSET": _Conversation._rset,
    "NOOP": _Conversation._noop,
    "QUIT": _Conversation._quit,
}
