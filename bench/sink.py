"""An SMTP server that accepts and discards all mail, and counts mails, distinct Message-IDs, round trips and sessions.

A round trip is a time for which the client waits for this server: replies are sent and no more input is available. Each
session is a thread with a plain socket, which costs less than an event loop. ``--rate`` limits the mails a second, and
``--beyond`` selects what happens to further mails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import socket
import ssl
import threading
import time
from pathlib import Path

from bench.rate import BEYOND, Rate
from config.local.certificates import server_context
from config.local.processes import LOOPBACK

_MESSAGE_ID = re.compile(rb"^Message-ID:\s*(\S+)", re.M | re.I)
_END = b"\r\n.\r\n"
_BLOCK = 256 * 1024


class Counts:
    """The counts, and the last arrival of each Message-ID.

    Times are those of the monotonic clock, which all processes of a machine share.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Reset all counts."""
        with self._lock:
            self.messages = self.octets = self.sessions = self.round_trips = self.unnamed = self.refused = 0
            self.ids: dict[bytes, float] = {}
            self.recipients: set[bytes] = set()
            self.begun: list[float] = []
            self.last = 0.0
            self.at_once = 0
            self._in_use: set[Session] = set()

    def add_session(self) -> None:
        with self._lock:
            self.sessions += 1

    def add_begun(self, session: Session) -> None:
        """Count a MAIL. A session counts from its first MAIL, because some open sessions send none."""
        with self._lock:
            self.begun.append(time.monotonic())
            self._in_use.add(session)
            self.at_once = max(self.at_once, len(self._in_use))

    def add_refused(self) -> None:
        with self._lock:
            self.refused += 1

    def end(self, session: Session) -> None:
        with self._lock:
            self._in_use.discard(session)

    def add_message(self, content: bytes | bytearray, recipient: bytes) -> None:
        found = _MESSAGE_ID.search(content, 0, 16 * 1024)
        with self._lock:
            self.messages += 1
            self.octets += len(content)
            self.recipients.add(recipient)
            self.last = time.monotonic()
            if found is None:
                self.unnamed += 1
            else:
                self.ids[bytes(found[1])] = self.last

    def add_round_trips(self, number: int) -> None:
        with self._lock:
            self.round_trips += number

    def report(self) -> dict[str, float]:
        with self._lock:
            return {
                "messages": self.messages,
                "distinct": len(self.ids) + self.unnamed,
                "recipients": len(self.recipients),
                "octets": self.octets,
                "sessions": self.sessions,
                "at_once": self.at_once,
                "begun": len(self.begun),
                "refused": self.refused,
                "round_trips": self.round_trips,
                "last": self.last,
            }


class Session:
    """One client. ``_trips`` are the round trips not yet added to the counts."""

    def __init__(
        self,
        connection: socket.socket,
        counts: Counts,
        tls: ssl.SSLContext | None,
        delay: float = 0.0,
        rate: Rate | None = None,
    ) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._counts = counts
        self._tls = tls
        self._delay = delay
        self._rate = rate
        #: The MAIL of this transaction was refused, so the rest of it is refused too.
        self._is_refused = False
        self._recipient = b""
        self._received = bytearray()
        self._replies: list[bytes] = []
        # The connection itself costs one, before our greeting.
        self._trips = 1
        self._chunks = bytearray()

    def run(self) -> None:
        self._counts.add_session()
        with contextlib.suppress(OSError, EOFError):
            self._say(b"220 sink ESMTP")
            while self._obey(self._line()):
                pass
            self._flush()
            if self._is_refused:
                self._hear_out()
        self._counts.add_round_trips(self._trips)
        self._counts.end(self)
        self._socket.close()

    def _hear_out(self) -> None:
        """Read the rest of the input: closing earlier could destroy the last reply to the client."""
        self._socket.settimeout(1)
        self._socket.shutdown(socket.SHUT_WR)
        while self._socket.recv(_BLOCK):
            pass

    def _obey(self, line: bytes) -> bool:
        verb, _, rest = line.partition(b" ")
        match verb.upper():
            case b"EHLO" | b"HELO":
                offered = [b"sink", b"PIPELINING", b"SIZE 104857600", b"8BITMIME", b"SMTPUTF8", b"CHUNKING"]
                offered += [b"ENHANCEDSTATUSCODES", b"AUTH PLAIN LOGIN"]
                if self._tls is not None and not isinstance(self._socket, ssl.SSLSocket):
                    offered.append(b"STARTTLS")
                self._say(*(b"250-" + word for word in offered[:-1]), b"250 " + offered[-1])
            case b"STARTTLS" if self._tls is not None:
                self._say(b"220 2.0.0 go on")
                self._flush()
                self._socket = self._tls.wrap_socket(self._socket, server_side=True)
                self._trips += 1
            case b"AUTH":
                self._log_in(rest)
            case b"MAIL":
                return self._begin()
            case b"RCPT" | b"DATA" if self._is_refused:
                self._say(b"503 5.5.1 no MAIL was taken")
            case b"RCPT":
                self._recipient = rest
                self._say(b"250 2.1.5 ok")
            case b"DATA":
                self._say(b"354 go on")
                self._take(self._content())
            case b"BDAT":
                self._take_chunk(rest.split())
            case b"QUIT":
                self._say(b"221 2.0.0 bye")
                return False
            case _:
                self._say(b"250 2.0.0 ok")
        return True

    def _log_in(self, rest: bytes) -> None:
        """Accept any user and password."""
        method, _, initial = rest.partition(b" ")
        asked = {b"PLAIN": [b""], b"LOGIN": [b"VXNlcm5hbWU6", b"UGFzc3dvcmQ6"]}[method.upper()]
        for question in asked[1:] if initial else asked:
            self._say(b"334 " + question)
            self._line()
        self._say(b"235 2.7.0 ok")

    def _begin(self) -> bool:
        """Answer MAIL. Returns False if the session ends with that."""
        self._counts.add_begun(self)
        refusal = self._rate.refusal() if self._rate is not None else b""
        self._is_refused = bool(refusal)
        if refusal:
            self._counts.add_refused()
        self._say(refusal or b"250 2.1.0 ok")
        return not refusal.startswith(b"421")

    def _take(self, content: bytes | bytearray) -> None:
        self._wait()
        if self._rate is not None:
            self._rate.wait()
        self._counts.add_message(content, self._recipient)
        self._counts.add_round_trips(self._trips)
        self._trips = 0
        self._wait()
        self._say(b"250 2.0.0 taken")

    def _wait(self) -> None:
        if self._delay:
            time.sleep(self._delay)

    def _take_chunk(self, words: list[bytes]) -> None:
        size = int(words[0])
        while len(self._received) < size:
            self._receive()
        self._chunks += self._received[:size]
        del self._received[:size]
        if self._is_refused:
            self._chunks.clear()
            self._say(b"503 5.5.1 no MAIL was taken")
        elif len(words) > 1:
            self._take(self._chunks)
            self._chunks = bytearray()
        else:
            self._say(b"250 2.0.0 ok")

    def _content(self) -> bytes:
        searched = 0
        while (end := self._received.find(_END, searched)) < 0:
            searched = max(0, len(self._received) - len(_END))
            self._receive()
        content = bytes(self._received[:end])
        del self._received[: end + len(_END)]
        return content

    def _line(self) -> bytes:
        while (end := self._received.find(b"\r\n")) < 0:
            self._receive()
        line = bytes(self._received[:end])
        del self._received[: end + 2]
        return line

    def _receive(self) -> None:
        self._flush()
        came = self._socket.recv(_BLOCK)
        if not came:
            raise EOFError
        self._received += came

    def _say(self, *lines: bytes) -> None:
        self._replies += lines

    def _flush(self) -> None:
        if self._replies:
            self._socket.sendall(b"".join(line + b"\r\n" for line in self._replies))
            self._replies.clear()
            self._trips += 1


def _control(server: socket.socket, counts: Counts) -> None:
    """Answer commands of the benchmark: each command is one line, each answer a line of JSON."""
    while True:
        connection, _ = server.accept()
        with connection, connection.makefile("rw") as stream:
            for line in stream:
                match line.split():
                    case ["reset"]:
                        counts.reset()
                        answer: object = True
                    case ["arrived", name]:
                        answer = counts.ids.get(name.encode())
                    case ["begun"]:
                        answer = list(counts.begun)
                    case _:
                        answer = counts.report()
                print(json.dumps(answer), file=stream, flush=True)


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument(
        "--delay", type=float, default=0.0, help="seconds before a mail is accepted, and again before the reply"
    )
    parser.add_argument("--rate", type=int, help="maximum number of mails accepted in a second")
    parser.add_argument("--beyond", choices=BEYOND, default="slow", help="reply to mails above the rate")
    parser.add_argument("--certificate", type=Path)
    parser.add_argument("--key", type=Path)
    options = parser.parse_args()
    tls = server_context(options.certificate, options.key) if options.certificate else None
    counts, rate = Counts(), Rate(options.rate, options.beyond) if options.rate else None
    control = socket.create_server((LOOPBACK, options.control))
    threading.Thread(target=_control, args=(control, counts), daemon=True).start()
    server = socket.create_server((LOOPBACK, options.port), backlog=512)
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        threading.Thread(target=Session(connection, counts, tls, options.delay, rate).run, daemon=True).start()


if __name__ == "__main__":
    main()
