"""OpenSMTPD in a chroot, because its paths cannot be configured.

The version of Debian 12 fails each TLS handshake because of its own fault. There it is tested without TLS, and without
a login, which it offers only over TLS.
"""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from .server import PASSWORD, USER, Options, Server, files, in_chroot, make_machine

_HAS_TLS = platform.freedesktop_os_release().get("VERSION_CODENAME") != "bookworm"
_OPENSMTPQ = 702


class OpenSMTPD(Server):
    name = "OpenSMTPD"
    installed = "opensmtpd"
    needs_root = True
    smtputf8 = False
    not_run = {} if _HAS_TLS else {"TLS and logins": "OpenSMTPD of Debian 12 fails each TLS handshake"}
    unknown = frozenset(
        {
            "recipients_of_connection",
            "extensions",
            "connections",
            "rate",
            "greylist",
            "refuses_all",
            *(() if _HAS_TLS else ("certificate", "login")),
        }
    )

    def prepare(self) -> None:
        self._tree = self.copy_of_installed()
        make_machine(self._tree, {"opensmtpd": 701, "opensmtpq": _OPENSMTPQ})
        # It reads these at its start.
        authorities = self._tree / "etc/ssl/certs/ca-certificates.crt"
        authorities.parent.mkdir(parents=True, exist_ok=True)
        authorities.write_bytes(self.certificates["good"].authority.read_bytes())
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
        starttls = smtps = ""
        if options.certificate:
            self.write_certificates(self._tree / "etc")
            lines += ['pki localhost cert "/etc/tls.pem"', 'pki localhost key "/etc/tls.key"']
            starttls, smtps = " tls pki localhost", " smtps pki localhost"
        if options.login:
            self._make_login()
            lines += ["table users file:/etc/users"]
            starttls, smtps = f"{starttls} auth <users>", f"{smtps} auth <users>"
        lines += [f"listen on 127.0.0.1 port {self.port} hostname localhost{starttls}{chosen}"]
        if smtps:
            lines += [f"listen on 127.0.0.1 port {self.tls_port} hostname localhost{smtps}{chosen}"]
        lines += [
            f'action "sink" relay host "smtp+notls://127.0.0.1:{self.sink.port}"',
            f'match {"auth " if options.login else ""}from any for any action "sink"',
        ]
        (self._tree / "etc/smtpd.conf").write_text("\n".join(lines) + "\n")
        os.chmod(self._tree / "etc/smtpd.conf", 0o600)

    def _make_login(self) -> None:
        control = self._tree / "usr/sbin/smtpctl"
        os.chown(control, 0, _OPENSMTPQ)  # it requires this even where it is not needed
        control.chmod(0o2755)
        command = in_chroot(self._tree, "/usr/sbin/smtpctl", "encrypt", PASSWORD)
        made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        (self._tree / "etc/users").write_text(f"{USER} {made.stdout.strip()}\n")
