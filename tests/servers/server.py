"""The common part of all servers: a folder, start and end, and the destination of accepted mail."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import socket
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self

from config.local.certificates import Certificates
from config.local.processes import LOOPBACK, Process, free_port, wait_until
from email_integration.smtpd import Message, SMTPServer

from . import installing

#: The user of programs that must not be root; it exists on every Debian machine.
UNPRIVILEGED_USER = 65534
Kind = Literal["good", "wrong name", "expired"]
USER, PASSWORD = "user", "correct horse"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The capabilities and limits of a server. Not every server supports all of these."""

    #: Whether it offers all its extensions, or as few as can be configured.
    extensions: bool = True
    #: The kind of its certificate, for STARTTLS and for a second port with TLS from the start; '' for no TLS.
    certificate: Kind | Literal[""] = ""
    #: Whether it requires a login.
    login: bool = False
    #: The most mails of one session, and the most connections at the same time.
    mails: int | None = None
    connections: int | None = None
    #: The most mails in a period, in seconds.
    rate: tuple[int, int] | None = None
    #: Seconds for which an unknown sender is deferred.
    greylist: int | None = None
    #: The most recipients of one mail, or of one connection, and whether all are refused if there are more.
    recipients: int | None = None
    refuses_all: bool = False
    recipients_of_connection: int | None = None
    #: The recipient at which it closes the connection.
    hangs_up_at: str | None = None
    #: Octets of the largest mail.
    size: int | None = None


class Server:
    """A server of one kind. A subclass writes its configuration and its start command.

    It relays accepted mail to ``sink``, a server of ours, or stores it in the folder ``kept`` in the format of
    ``deliver``.
    """

    name: ClassVar[str]
    #: The name in ``installing``.
    installed: ClassVar[str]
    #: Whether it can only be run by root.
    needs_root: ClassVar[bool] = False
    #: The fields of ``Options`` that it does not support.
    unknown: ClassVar[frozenset[str]] = frozenset()
    #: Supported options that are not tested with it, and the reasons.
    not_run: ClassVar[Mapping[str, str]] = {}
    #: Whether it accepts addresses beyond ASCII (RFC 6531).
    smtputf8: ClassVar[bool] = True
    #: Whether it closes the connection without refusing the recipient.
    hangs_up_silently: ClassVar[bool] = False
    #: Its log files, below its folder.
    logs: ClassVar[tuple[str, ...]] = ()
    #: Whether it relays its mail to ``sink``.
    relays: ClassVar[bool] = True

    def __init__(self, certificates: Mapping[Kind, Certificates] | None = None) -> None:
        self.certificates = certificates or {}
        # Not below the run's own folder, which only one user may enter.
        self.folder = Path(tempfile.mkdtemp(prefix="mail-server-"))
        self.folder.chmod(0o755)
        self.port, self.tls_port = free_port(), free_port()
        self.sink = SMTPServer(security="plain", user=None, size_limit=64 * 1024 * 1024)
        self.kept = self.folder / "kept"
        self.kept.mkdir()
        self.options = Options()
        self._process: Process | None = None
        self._starts = 0

    @classmethod
    def missing(cls) -> str:
        """Return why it cannot be run here, or ''."""
        if cls.needs_root and os.geteuid():
            return "it can be run by root alone"
        return installing.missing(cls.installed)

    # -- defined by a kind of server ---------------------------------------------------------------------------

    def prepare(self) -> None:
        """Prepare its files once."""

    def configure(self, options: Options) -> None:
        """Write its configuration."""
        raise NotImplementedError

    def command(self) -> list[str | Path]:
        """Return the command that starts it in the foreground."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        return {}

    def is_done(self) -> bool:
        """Return whether it has relayed all accepted mail."""
        return True

    # -- starting and ending -----------------------------------------------------------------------------------

    @property
    def log(self) -> str:
        """Return its log so far."""
        written = [path for pattern in ("*.log", *self.logs) for path in sorted(self.folder.glob(pattern))]
        return "\n".join(path.read_text(errors="replace") for path in written)

    def start(self, options: Options) -> None:
        """Start it with these options. If it is running, end it first."""
        self.stop()
        if self._starts == 0:
            self.prepare()
            self.sink.start()
        self.options = options
        self.configure(options)
        self.resume()

    def resume(self) -> None:
        """Start it again with the same options."""
        self._starts += 1
        log = self.folder / f"{self._starts:03}.log"
        self._process = Process(self.name, self.command(), log=log, env=self.environment(), cwd=self.folder)
        ports = [self.port, *([self.tls_port] if self.options.certificate else [])]
        wait_until(lambda: self._listens(ports), what=f"{self.name} listening")

    def stop(self) -> None:
        """Kill it and all its children, even in the middle of their work."""
        if self._process is not None:
            self._process.end(seconds=1)
            self._process = None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.is_running

    def restart(self) -> None:
        self.stop()
        self.resume()

    def _listens(self, ports: list[int]) -> bool:
        assert self._process is not None
        if not self._process.is_running:
            raise RuntimeError(f"{self.name} ended with {self._process.returncode}:\n{self.log[-4000:]}")
        try:
            for port in ports:
                with socket.create_connection((LOOPBACK, port), timeout=10) as connection:
                    # A server that has just started may accept a connection and end.
                    if port == self.port and connection.recv(3) != b"220":
                        return False
        except OSError:
            return False
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        if self.sink.is_running:
            self.sink.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- for a subclass ----------------------------------------------------------------------------------------

    def copy_of_installed(self, *parts: str) -> Path:
        """Return a copy of the unpacked files that every user can enter: of these parts, or of all."""
        tree = self.folder / "tree"
        for part in parts or ("",):
            shutil.copytree(installing.WHERE / self.installed / part, tree / part, symlinks=True, dirs_exist_ok=True)
        tree.chmod(0o755)
        return tree

    def write_certificates(self, folder: Path, owner: int | None = None) -> tuple[Path, Path]:
        """Write copies of the certificate and its key, readable only by a user. Returns their paths."""
        assert self.options.certificate
        chosen = self.certificates[self.options.certificate]
        made = folder / "tls.pem", folder / "tls.key"
        for source, target in zip((chosen.certificate, chosen.key), made, strict=True):
            target.write_bytes(source.read_bytes())
            target.chmod(0o600)
            if owner is not None and os.geteuid() == 0:
                os.chown(target, owner, owner)
        return made

    # -- arrived mail ------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Reset the counts."""
        self.sink.messages.clear()
        for path in self.kept.iterdir():
            path.unlink()

    def messages(self) -> list[Message]:
        """Return the accepted mail, as relayed."""
        if self.relays:
            return list(self.sink.messages)
        return [_kept(path) for path in sorted(self.kept.glob("*.mail"))]

    def arrived(self) -> Counter[tuple[str, str]]:
        """Return how often it accepted each mail for each recipient, by address and Message-ID.

        The server's own trace headers identify an acceptance. If the server relayed a mail twice itself, because it was
        ended while relaying, the mail counts once.
        """
        seen = {
            (address, message.message_id, _trace(message.content) if self.relays else str(number))
            for number, message in enumerate(self.messages())
            for address in message.rcpt_tos
        }
        return Counter((address, message_id) for address, message_id, _ in seen)

    def wait_for(self, recipients: int) -> None:
        """Wait until it has relayed all accepted mail.

        ``recipients`` is the least number of different pairs of mail and recipient.
        """
        wait_until(
            lambda: len(self.arrived()) >= recipients and self.is_done(),
            what=f"{recipients} mails behind {self.name}, all relayed",
            seconds=60,
        )


def _kept(path: Path) -> Message:
    """Return a mail that a server has stored: the envelope in a line of JSON, and the content."""
    envelope, _, content = path.read_bytes().partition(b"\n")
    values = json.loads(envelope)
    return Message(mail_from=values["from"], rcpt_tos=tuple(values["to"]), content=content, session=0, received_at=0)


_TRACE = re.compile(rb"\A(?:(?:Received|Return-Path|Delivered-To|X-Haraka-[\w-]*):.*\r?\n(?:[ \t].*\r?\n)*)+", re.I)


def _trace(content: bytes) -> bytes:
    found = _TRACE.match(content)
    return found[0] if found else b""


def without_trace(content: bytes) -> bytes:
    """Return the content without the trace headers that the server has added."""
    return _TRACE.sub(b"", content, count=1)


def in_chroot(tree: Path, *command: str) -> list[str | Path]:
    """Return the command for root, with the tree as root of the file system."""
    return ["chroot", tree, *command]


def make_machine(tree: Path, users: Mapping[str, int]) -> None:
    """Create the files that programs expect on a machine: users with groups of the same name, hosts and devices."""
    (tree / "etc").mkdir(exist_ok=True)
    names = {"root": 0, "unprivileged": UNPRIVILEGED_USER, **users}
    (tree / "etc/passwd").write_text(
        "".join(f"{name}:x:{number}:{number}::/:/bin/false\n" for name, number in names.items())
    )
    (tree / "etc/group").write_text("".join(f"{name}:x:{number}:\n" for name, number in names.items()))
    (tree / "etc/hosts").write_text(f"{LOOPBACK} localhost\n")
    (tree / "etc/resolv.conf").write_text("")
    (tree / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files\nservices: files\n")
    (tree / "etc/services").write_text("smtp 25/tcp\n")
    (tree / "etc/mailname").write_text("localhost\n")
    for folder in ("dev", "tmp", "run", "var/log", "var/run", "var/spool", "var/lib"):
        (tree / folder).mkdir(parents=True, exist_ok=True)
    (tree / "tmp").chmod(0o1777)
    for name, minor in {"null": 3, "urandom": 9, "random": 8}.items():
        with contextlib.suppress(FileExistsError):
            os.mknod(tree / "dev" / name, 0o666 | 0o020000, os.makedev(1, minor))
            (tree / "dev" / name).chmod(0o666)


def files(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder. Some may vanish meanwhile."""
    for where, _, names in os.walk(folder):
        for name in names:
            yield Path(where) / name
