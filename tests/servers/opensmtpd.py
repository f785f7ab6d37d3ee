"""OpenSMTPD, in a tree that is all it sees: its paths cannot be chosen.

Debian 12's fails each TLS handshake by itself, so that it is tested without, and without a login, which it offers over
TLS alone.
"""

from __future__ import annotations

import os
from pathlib import Path

from .server import Options, Server, files, in_chroot, make_machine


class OpenSMTPD(Server):
    name = "OpenSMTPD"
    installed = "opensmtpd"
    needs_root = True
    smtputf8 = False
    not_run = {"TLS and logins": "Debian 12's fails each handshake by itself"}
    unknown = frozenset(
        {
            "recipients_of_connection",
            "extensions",
            "certificate",
            "login",
            "connections",
            "rate",
            "greylist",
            "refuses_all",
        }
    )

    def prepare(self) -> None:
        self._tree = self.copy_of_installed()
        make_machine(self._tree, {"opensmtpd": 701, "opensmtpq": 702})
        (self._tree / "var/lib/opensmtpd/empty").mkdir(parents=True, exist_ok=True)
        (self._tree / "var/spool/smtpd").mkdir(parents=True, exist_ok=True)
        (self._tree / "var/spool/smtpd").chmod(0o711)

    def command(self) -> list[str | Path]:
        return in_chroot(self._tree, "/usr/sbin/smtpd", "-d", "-f", "/etc/smtpd.conf")

    def is_done(self) -> bool:
        spool = self._tree / "var/spool/smtpd"
        return not any(True for folder in ("queue", "incoming") for _ in files(spool / folder))

    def configure(self, options: Options) -> None:
        lines = ["smtp ciphers DEFAULT"]
        if options.mails:
            lines += [f"smtp limit max-mails {options.mails}"]
        if options.recipients:
            lines += [f"smtp limit max-rcpt {options.recipients}"]
        if options.size:
            lines += [f"smtp max-message-size {options.size}"]
        chosen = ""
        if options.hangs_up_at:
            match = f'rcpt-to {{ "{options.hangs_up_at}" }}'
            lines += [f'filter "drops" phase rcpt-to match {match} disconnect "550 no such user"']
            chosen = ' filter "drops"'
        lines += [
            f"listen on 127.0.0.1 port {self.port} hostname localhost{chosen}",
            f'action "sink" relay host "smtp+notls://127.0.0.1:{self.sink.port}"',
            'match from any for any action "sink"',
        ]
        (self._tree / "etc/smtpd.conf").write_text("\n".join(lines) + "\n")
        os.chmod(self._tree / "etc/smtpd.conf", 0o600)
