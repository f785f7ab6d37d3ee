"""Postfix in a chroot, with Cyrus SASL for logins."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

from .policy import Policy
from .server import PASSWORD, USER, Options, Server, files, in_chroot, make_machine

_POSTFIX, _POSTDROP = 701, 702
_SPOOL = "var/spool/postfix"
#: Lines of master.cf: service, type, private, unprivileged, chroot, wakeup, most processes, program.
_SERVICES = """
cleanup   unix  n - n - 0  cleanup
qmgr      unix  n - n 300 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - -  trivial-rewrite
bounce    unix  - - n - 0  bounce
defer     unix  - - n - 0  bounce
trace     unix  - - n - 0  bounce
verify    unix  - - n - 1  verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n - -  proxymap
smtp      unix  - - n - -  smtp
error     unix  - - n - -  error
retry     unix  - - n - -  error
discard   unix  - - n - -  discard
anvil     unix  - - n - 1  anvil
scache    unix  - - n - 1  scache
postlog   unix-dgram n - n - 1 postlogd
"""


class Postfix(Server):
    name = "Postfix"
    installed = "postfix"
    logs = ("tree/var/log/postfix.log",)
    needs_root = True
    unknown = frozenset({"recipients_of_connection", "mails", "refuses_all"})

    _policy: Policy | None = None

    def prepare(self) -> None:
        self._tree = self.copy_of_installed()
        make_machine(self._tree, {"postfix": _POSTFIX, "postdrop": _POSTDROP})
        spool = self._tree / _SPOOL
        for name in (
            "active",
            "bounce",
            "corrupt",
            "defer",
            "deferred",
            "flush",
            "hold",
            "incoming",
            "private",
            "saved",
        ):
            _folder(spool / name, 0o700, _POSTFIX)
        for name in ("maildrop", "public"):
            _folder(spool / name, 0o730, _POSTFIX, _POSTDROP)
        _folder(spool / "pid", 0o755, 0)
        _folder(self._tree / "var/lib/postfix", 0o700, _POSTFIX)
        self._policy = Policy()

    def command(self) -> list[str | Path]:
        return in_chroot(self._tree, "/usr/lib/postfix/sbin/master", "-s", "-c", "/etc/postfix")

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        if self._policy is not None:
            self._policy.stop()

    def is_done(self) -> bool:
        waiting = ("incoming", "active", "deferred", "maildrop")
        return not any(_was_taken(path) for name in waiting for path in files(self._tree / _SPOOL / name))

    def configure(self, options: Options) -> None:
        assert self._policy is not None
        self._policy.forget(greylist=options.greylist, hangs_up_at=options.hangs_up_at)
        values = {
            "compatibility_level": "3.6",
            "default_privs": "unprivileged",
            "myhostname": "localhost",
            "mydestination": "",
            "mynetworks": "127.0.0.0/8",
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "alias_maps": "",
            "local_recipient_maps": "",
            "disable_dns_lookups": "yes",
            "default_transport": "smtp",
            "relayhost": f"[127.0.0.1]:{self.sink.port}",
            "smtp_line_length_limit": "0",
            "smtp_tls_security_level": "none",
            "smtpd_peername_lookup": "no",
            "maillog_file": "/var/log/postfix.log",
            "queue_run_delay": "1s",
            "minimal_backoff_time": "1s",
            "maximal_backoff_time": "1s",
            # By default, Postfix exempts this machine from all limits.
            "smtpd_client_event_limit_exceptions": "",
            "smtpd_relay_restrictions": "permit_mynetworks, reject",
            "smtpd_recipient_restrictions": f"check_policy_service inet:127.0.0.1:{self._policy.port}",
        }
        if not options.extensions:
            values["smtpd_discard_ehlo_keywords"] = "pipelining, 8bitmime, smtputf8, chunking, dsn, size, vrfy, etrn"
        if options.certificate:
            self.write_certificates(self._tree / "etc/postfix")
            values |= {
                "smtpd_tls_security_level": "may",
                "smtpd_tls_chain_files": "/etc/postfix/tls.key, /etc/postfix/tls.pem",
            }
        if options.login:
            self._make_login()
            values |= {
                "smtpd_sasl_auth_enable": "yes",
                "smtpd_sasl_local_domain": "localhost",
                "cyrus_sasl_config_path": "/etc/postfix/sasl",
                "smtpd_relay_restrictions": "permit_sasl_authenticated, reject",
            }
        if options.connections:
            values["smtpd_client_connection_count_limit"] = str(options.connections)
        if options.rate:
            number, seconds = options.rate
            values |= {"smtpd_client_message_rate_limit": str(number), "anvil_rate_time_unit": f"{seconds}s"}
        if options.recipients:
            values["smtpd_recipient_limit"] = str(options.recipients)
        if options.size:
            values["message_size_limit"] = str(options.size)
        text = "".join(f"{name} = {value}\n" for name, value in values.items())
        (self._tree / "etc/postfix/main.cf").write_text(text)
        services = f"127.0.0.1:{self.port} inet n - n - - smtpd\n"
        if options.certificate:
            services += f"127.0.0.1:{self.tls_port} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes\n"
        (self._tree / "etc/postfix/master.cf").write_text(services + _SERVICES.lstrip())

    def _make_login(self) -> None:
        folder = self._tree / "etc/postfix/sasl"
        folder.mkdir(exist_ok=True)
        settings = ["pwcheck_method: auxprop", "auxprop_plugin: sasldb", "sasldb_path: /etc/sasldb2"]
        (folder / "smtpd.conf").write_text("\n".join([*settings, "mech_list: PLAIN LOGIN", ""]))
        command = in_chroot(
            self._tree, "/usr/sbin/saslpasswd2", "-c", "-p", "-f", "/etc/sasldb2", "-u", "localhost", USER
        )
        subprocess.run(command, input=PASSWORD, text=True, check=True, timeout=60)
        os.chown(self._tree / "etc/sasldb2", _POSTFIX, _POSTFIX)


def _was_taken(path: Path) -> bool:
    """Return whether the file of a mail is complete: then its owner may execute it.

    If Postfix was ended while writing, an incomplete file stays for a long time.
    """
    try:
        return bool(path.stat().st_mode & stat.S_IXUSR)
    except FileNotFoundError:
        return False


def _folder(path: Path, mode: int, owner: int, group: int = 0) -> None:
    path.mkdir(parents=True, exist_ok=True)
    os.chown(path, owner, group)
    path.chmod(mode)
