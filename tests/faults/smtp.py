"""An SMTP server that counts accepted mail and misbehaves on command: at a verb, a number of times, or at random."""

from __future__ import annotations

import contextlib
import dataclasses
import email.parser
import hashlib
import random
import select
import socket
import ssl
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass

from config.local.processes import LOOPBACK, PATIENCE, free_port

#: Where it can misbehave: at a command, during the content, at the final dot, and after it has accepted the mail.
VERBS = ("CONNECT", "EHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "CONTENT", "DOT", "TAKEN")
#: How: a temporary refusal, a permanent one, 421, an invalid reply, a partial reply, no reply, and a closed connection.
KINDS = ("4yz", "5yz", "421", "garbage", "half", "hang", "drop")
#: What it can do to an accepted mail without a false reply.
SILENCES = ("garbage", "half", "hang", "drop")

_USUAL = {"MAIL": "250 2.1.0 ok", "RCPT": "250 2.1.5 ok", "RSET": "250 2.0.0 ok", "NOOP": "250 2.0.0 ok"}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """The fault at the next ``times`` commands of ``verb``, after the first ``after`` of them."""

    verb: str
    kind: str
    times: int = 1
    after: int = 0


class Hold:
    """Suppresses the reply to the next command of ``verb``, after the first ``after``.

    A caller can wait for this command, and gets the client's port.
    """

    def __init__(self, verb: str, *, after: int = 0) -> None:
        self.verb = verb
        self.after = after
        self._reached = threading.Event()
        #: The client's port.
        self.port = 0

    def reach(self, port: int) -> None:
        """Report the command."""
        self.port = port
        self._reached.set()

    def wait(self, *, seconds: float = PATIENCE) -> int:
        """Wait for the command, and return the client's port. Raises TimeoutError."""
        if not self._reached.wait(seconds):
            raise TimeoutError(f"no {self.verb} within {seconds:g} seconds")
        return self.port


class SMTPSink:
    """Listens on loopback, requires STARTTLS and AUTH, and has a thread for each connection. It keeps its port."""

    user, password = "user", "password"

    def __init__(self, tls: ssl.SSLContext) -> None:
        self.port = free_port()
        self.tls = tls
        #: Seconds between accepting a mail and the reply.
        self.slow = 0.0
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()
        self._digests: defaultdict[str, set[str]] = defaultdict(set)
        self._faults: list[Fault] = []
        self._holds: list[Hold] = []
        self._chaos: tuple[random.Random, float] | None = None
        self._misbehaved = 0
        self._sessions: set[_Session] = set()
        self._listener: socket.socket | None = None

    # Faults

    def misbehave(self, *faults: Fault) -> None:
        """Add these faults."""
        with self._lock:
            for fault in faults:
                self._faults.extend([fault, *[dataclasses.replace(fault, after=0)] * (fault.times - 1)])

    def misbehave_at_random(self, seed: int, *, rate: float) -> None:
        """Cause any fault at any verb with the probability ``rate`` (0 to 1), except permanent refusals of a mail."""
        with self._lock:
            self._chaos = random.Random(seed), rate

    def behave(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._faults.clear()
            self._holds.clear()
            self._chaos = None

    def hold(self, verb: str, *, after: int = 0) -> Hold:
        """Suppress the reply to the next ``verb``, after the first ``after``.

        The server stays silent until the client closes the connection.
        """
        hold = Hold(verb, after=after)
        with self._lock:
            self._holds.append(hold)
        return hold

    def next_hold(self, verb: str) -> Hold | None:
        """Take the hold for this command."""
        with self._lock:
            found = next((hold for hold in self._holds if hold.verb == verb), None)
            if found is not None and found.after:
                found.after -= 1
                return None
            if found is not None:
                self._holds.remove(found)
            return found

    def next_kind(self, verb: str) -> str | None:
        """Take the first fault for this command."""
        with self._lock:
            found = next((fault for fault in self._faults if fault.verb == verb), None)
            if found is not None and found.after:
                self._faults[self._faults.index(found)] = dataclasses.replace(found, after=found.after - 1)
                return None
            if found is not None:
                self._faults.remove(found)
                self._misbehaved += 1
                return found.kind
            if self._chaos is not None:
                chance, rate = self._chaos
                if chance.random() < rate:
                    self._misbehaved += 1
                    return chance.choice(SILENCES if verb == "TAKEN" else [kind for kind in KINDS if kind != "5yz"])
        return None

    # Counts

    @property
    def misbehaved(self) -> int:
        """How many faults have occurred."""
        return self._misbehaved

    @property
    def pending(self) -> int:
        """How many faults are still to come."""
        with self._lock:
            return len(self._faults)

    @property
    def total(self) -> int:
        """How many messages it has accepted, with each copy counted."""
        with self._lock:
            return self._taken.total()

    def copies(self) -> Counter[str]:
        """Return how often each Message-ID was accepted."""
        with self._lock:
            return Counter(self._taken)

    def altered(self) -> set[str]:
        """Return the Message-IDs whose copies differ."""
        with self._lock:
            return {message_id for message_id, digests in self._digests.items() if len(digests) > 1}

    def take(self, content: bytes) -> None:
        """Count a message."""
        message_id = str(email.parser.BytesHeaderParser().parsebytes(content)["Message-ID"] or "").strip()
        with self._lock:
            self._taken[message_id] += 1
            self._digests[message_id].add(hashlib.sha256(content).hexdigest())

    # Starting and stopping

    def start(self) -> None:
        """Listen. Raises OSError if the port is in use."""
        self._listener = socket.create_server((LOOPBACK, self.port), backlog=128)
        # A small window, so that the kernel cannot buffer megabytes of a client whose data is not read.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        threading.Thread(target=self._listen, args=(self._listener,), daemon=True).start()

    def stop(self) -> None:
        """Stop immediately, as a crash does."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.drop_connections()

    def drop_connections(self) -> None:
        """Close all connections, and continue to listen."""
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.break_off()
        deadline = time.monotonic() + 5
        while self._sessions and time.monotonic() < deadline:
            time.sleep(0.005)

    def ended(self, session: _Session) -> None:
        """Forget a session."""
        with self._lock:
            self._sessions.discard(session)

    def _listen(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, address = listener.accept()
            except OSError:
                return
            session = _Session(self, connection, address[1])
            with self._lock:
                self._sessions.add(session)
            session.start()


class _Over(Exception):
    """The session ends here."""


class _Session(threading.Thread):
    """One connection."""

    def __init__(self, server: SMTPSink, connection: socket.socket, port: int) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._peer = port
        self._secured = self._logged_in = False
        self._recipients = 0
        self._in_mail = False

    def break_off(self) -> None:
        """End the thread."""
        with contextlib.suppress(OSError):
            # Bypass TLS, which would send a close alert.
            socket.socket.shutdown(self._connection, socket.SHUT_RDWR)

    def run(self) -> None:
        try:
            self._converse()
        except (_Over, OSError, ValueError):
            pass  # the client, the server or the test has closed the connection
        finally:
            with contextlib.suppress(OSError, ValueError):
                self._lines.close()
            self._connection.close()
            self._server.ended(self)

    def _converse(self) -> None:
        if self._misbehaves("CONNECT"):
            raise _Over
        self._say("220 localhost ESMTP")
        while line := self._lines.readline():
            verb = line.split(None, 1)[0].decode("latin-1").upper() if line.strip() else ""
            if self._misbehaves("EHLO" if verb == "HELO" else verb):
                continue
            self._answer(verb, line)

    def _answer(self, verb: str, line: bytes) -> None:
        match verb:
            case "EHLO":
                offers = ["PIPELINING", "SIZE 33554432", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"]
                offers.append("AUTH PLAIN LOGIN" if self._secured else "STARTTLS")
                self._say("250-localhost", *(f"250-{offer}" for offer in offers[:-1]), f"250 {offers[-1]}")
            case "HELO":
                self._say("250 localhost")
            case "STARTTLS":
                self._say("220 2.0.0 go ahead")
                self._connection = self._server.tls.wrap_socket(self._connection, server_side=True)
                self._lines = self._connection.makefile("rb")
                self._secured = True
            case "AUTH":
                self._logged_in = True
                self._say("235 2.7.0 welcome")
            case "MAIL" if not self._logged_in:
                self._say("530 5.7.0 log in first")
            case "MAIL":
                self._in_mail, self._recipients = True, 0
                self._say(_USUAL[verb])
            case "RCPT" if not self._in_mail:
                self._say("503 5.5.1 MAIL first")
            case "RCPT":
                self._recipients += 1
                self._say(_USUAL[verb])
            case "DATA" if not self._recipients:
                self._say("503 5.5.1 RCPT first")
            case "DATA":
                self._say("354 go on")
                self._read_content()
            case "RSET" | "NOOP":
                self._in_mail, self._recipients = False, 0
                self._say(_USUAL[verb])
            case "QUIT":
                self._say("221 2.0.0 bye")
                raise _Over
            case _:
                self._say("500 5.5.2 what?")

    def _read_content(self) -> None:
        lines: list[bytes] = []
        while (line := self._lines.readline()) != b".\r\n":
            if not line:
                raise _Over
            lines.append(line.removeprefix(b"."))
            if len(lines) == 1 and self._misbehaves("CONTENT"):
                raise _Over
        self._in_mail, self._recipients = False, 0
        if self._misbehaves("DOT"):
            return
        self._server.take(b"".join(lines))
        if self._server.slow:
            time.sleep(self._server.slow)
        if not self._misbehaves("TAKEN"):
            self._say("250 2.0.0 taken")

    def _misbehaves(self, verb: str) -> bool:
        """Return whether a fault has replaced the answer."""
        hold = self._server.next_hold(verb)
        if hold is not None:
            hold.reach(self._peer)
            self._wait_for_the_end()
        kind = self._server.next_kind(verb)
        match kind:
            case None:
                return False
            case "4yz":
                self._say("451 4.3.0 not now")
            case "5yz":
                self._say("535 5.7.8 who are you?" if verb == "AUTH" else "554 5.3.0 never")
            case "421":
                self._say("421 4.3.2 going away")
                raise _Over
            case "garbage":
                self._connection.sendall(b"\0\xff what is this?\r\n")
            case "half":
                self._connection.sendall(b"25")
                self._wait_for_the_end()
            case "hang":
                self._wait_for_the_end()
            case _:
                raise _Over
        return True

    def _wait_for_the_end(self) -> None:
        """Read nothing and send nothing until the client has closed the connection."""
        watch = select.poll()
        watch.register(self._connection.fileno(), select.POLLRDHUP)
        watch.poll(120_000)
        raise _Over

    def _say(self, *lines: str) -> None:
        self._connection.sendall("".join(f"{line}\r\n" for line in lines).encode())
