"""Exim 4, with a few lines of configuration, run without a special user."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from .server import PASSWORD, UNPRIVILEGED_USER, USER, Options, Server, files


class Exim(Server):
    name = "Exim"
    installed = "exim"
    unknown = frozenset({"recipients_of_connection"})
    logs = ("spool/mainlog", "spool/paniclog")

    def prepare(self) -> None:
        tree = self.copy_of_installed("usr", "lib")
        # Exim knows its user by name, and here that name belongs to another user.
        me = os.geteuid() or UNPRIVILEGED_USER
        (self.folder / "passwd").write_text(f"root:x:0:0::/:/bin/sh\nDebian-exim:x:{me}:{me}::/:/bin/sh\n")
        (self.folder / "group").write_text(f"root:x:0:\nDebian-exim:x:{me}:\n")
        (self.folder / "spool").mkdir()
        self._library = tree / "usr" / "lib" / f"{os.uname().machine}-linux-gnu"
        self._program = tree / "usr" / "sbin" / "exim4"
        if os.geteuid() == 0:
            os.chown(self.folder / "spool", UNPRIVILEGED_USER, UNPRIVILEGED_USER)

    def environment(self) -> Mapping[str, str]:
        return {
            "LD_PRELOAD": str(self._library / "libnss_wrapper.so"),
            "LD_LIBRARY_PATH": str(self._library),
            "NSS_WRAPPER_PASSWD": str(self.folder / "passwd"),
            "NSS_WRAPPER_GROUP": str(self.folder / "group"),
        }

    def command(self) -> list[str | Path]:
        run = [self._program, "-C", self.folder / "exim.conf", "-bdf", "-q1s"]
        if os.geteuid() == 0:
            return ["setpriv", f"--reuid={UNPRIVILEGED_USER}", f"--regid={UNPRIVILEGED_USER}", "--clear-groups", *run]
        return run

    def is_done(self) -> bool:
        # A mail consists of a -H and a -D file. It is accepted once -H exists, which is written second, and gone
        # without its -D: Exim removes -D first, and if it was killed in between, never removes the rest.
        names = {path.name for path in files(self.folder / "spool" / "input")}
        return not any(name.endswith("-H") and name.removesuffix("H") + "D" in names for name in names)

    def configure(self, options: Options) -> None:
        lines = [
            "primary_hostname = localhost",
            f"exim_path = {self._program}",
            "keep_environment = ^LD_ : ^NSS_",
            f"spool_directory = {self.folder}/spool",
            f"log_file_path = {self.folder}/spool/%slog",
            f"pid_file_path = {self.folder}/spool/exim.pid",
            "local_interfaces = 127.0.0.1",
            f"daemon_smtp_ports = {self.port} : {self.tls_port}",
            f"tls_on_connect_ports = {self.tls_port}",
            "deliver_drop_privilege = true",
            "host_lookup =",
            "rfc1413_hosts =",
            "smtp_accept_max = 50",
            "smtp_accept_queue_per_connection = 0",
            "queue_run_max = 2",
            "acl_smtp_mail = mail",
            "acl_smtp_rcpt = rcpt",
        ]
        if options.extensions:
            lines += ["smtputf8_advertise_hosts = *", "pipelining_advertise_hosts = *", "chunking_advertise_hosts = *"]
        else:
            lines += ["smtputf8_advertise_hosts =", "pipelining_advertise_hosts =", "chunking_advertise_hosts ="]
            lines += ["accept_8bitmime = false", "dsn_advertise_hosts ="]
        if options.certificate:
            certificate, key = self.write_certificates(self.folder, UNPRIVILEGED_USER)
            lines += [f"tls_certificate = {certificate}", f"tls_privatekey = {key}", "tls_advertise_hosts = *"]
        else:
            lines += ["tls_advertise_hosts ="]
        if options.mails:
            lines += [f"smtp_accept_max_per_connection = {options.mails}"]
        if options.connections:
            lines += [f"smtp_accept_max_per_host = {options.connections}"]
        if options.recipients:
            refuses = str(options.refuses_all).lower()
            lines += [f"recipients_max = {options.recipients}", f"recipients_max_reject = {refuses}"]
        if options.size:
            lines += [f"message_size_limit = {options.size}"]
        lines += ["begin acl", *self._mail(options), *self._rcpt(options), *_ROUTES, *self._transport()]
        if options.login:
            lines += _AUTHENTICATORS
        (self.folder / "exim.conf").write_text("\n".join(lines) + "\n")

    def _mail(self, options: Options) -> list[str]:
        lines = ["mail:"]
        if options.login:
            lines += ["  deny message = authentication required", "    !authenticated = *"]
        if options.rate:
            number, seconds = options.rate
            lines += [
                f"  defer ratelimit = {number} / {seconds}s / strict",
                "    message = Sender rate $sender_rate / $sender_rate_period",
                "    log_message = RATE $sender_rate refused",
                "  warn ratelimit = 0 / 1h / noupdate",
                "    log_message = RATE $sender_rate accepted",
            ]
        return [*lines, "  accept"]

    def _rcpt(self, options: Options) -> list[str]:
        lines = ["rcpt:"]
        if options.greylist:
            lines += [
                f"  defer !seen = -{options.greylist}s / key=$sender_address,$local_part@$domain",
                f"    message = Greylisted, try again in {options.greylist} seconds",
            ]
        if options.hangs_up_at:
            lines += [f"  drop recipients = {options.hangs_up_at}", "    message = no such user"]
        return [*lines, "  accept"]

    def _transport(self) -> list[str]:
        return [
            "begin transports",
            "sink:",
            "  driver = smtp",
            f"  port = {self.sink.port}",
            "  allow_localhost",
            "  hosts_avoid_tls = *",
            "  message_linelength_limit = 100M",
            "begin retry",
            "* * F,1h,1s",
        ]


_ROUTES = [
    "begin routers",
    "all:",
    "  driver = manualroute",
    "  route_list = * 127.0.0.1",
    "  transport = sink",
    "  self = send",
]
_AUTHENTICATORS = [
    "begin authenticators",
    "plain:",
    "  driver = plaintext",
    "  public_name = PLAIN",
    "  server_prompts = :",
    f"  server_condition = ${{if and{{{{eq{{$auth2}}{{{USER}}}}}{{eq{{$auth3}}{{{PASSWORD}}}}}}}}}",
    "  server_set_id = $auth2",
]
