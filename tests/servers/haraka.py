"""Haraka 3.3, with its own plugins for TLS, logins and limits, and one of ours that stores the mail."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from tests import services

from . import installing
from .server import PASSWORD, USER, Options, Server


class Haraka(Server):
    name = "Haraka"
    installed = "node"
    relays = False
    unknown = frozenset({"refuses_all"})

    def prepare(self) -> None:
        for name in ("config", "plugins", "queue"):
            (self.folder / name).mkdir()
        shutil.copy(Path(__file__).with_name("haraka_plugin.js"), self.folder / "plugins" / "ours.js")
        # The folder in which it looks for plugins that are packages.
        (self.folder / "node_modules").symlink_to(installing.WHERE / "node" / "node_modules")

    def command(self) -> list[str | Path]:
        modules = installing.WHERE / "node" / "node_modules"
        return [installing.node(), modules / "Haraka" / "bin" / "haraka", "-c", self.folder]

    def environment(self) -> Mapping[str, str]:
        return {"PATH": f"{installing.node().parent}{os.pathsep}{os.environ['PATH']}"}

    def configure(self, options: Options) -> None:
        config = self.folder / "config"
        for path in config.iterdir():
            path.unlink()
        plugins = ["ours"]
        wanted = {
            field.name: getattr(options, field.name)
            for field in dataclasses.fields(options)
            if field.name != "certificate"
        }
        (config / "wanted.json").write_text(json.dumps(wanted | {"kept": str(self.kept)}))
        smtp = f"listen=127.0.0.1:{self.port}"
        if options.certificate:
            self.write_certificates(config)
            smtp += f",127.0.0.1:{self.tls_port}\nsmtps_port={self.tls_port}"
            plugins.insert(0, "tls")
            (config / "tls.ini").write_text("key=tls.key\ncert=tls.pem\n")
        (config / "smtp.ini").write_text(f"{smtp}\nnodes=0\n")
        # The whole file, because it does not use defaults for missing values.
        usual = (installing.WHERE / "node/node_modules/Haraka/config/connection.ini").read_text()
        size = f"\nbytes={options.size or 50_000_000}\n"
        (config / "connection.ini").write_text(usual.replace("\nbytes=26214400\n", size))
        (config / "me").write_text("localhost\n")
        (config / "log.ini").write_text("[main]\nlevel=notice\nformat=default\n")
        if options.login:
            plugins.append("auth/flat_file")
            (config / "auth_flat_file.ini").write_text(
                f"[core]\nmethods=PLAIN,LOGIN,CRAM-MD5\nconstrain_sender=false\n[users]\n{USER}={PASSWORD}\n"
            )
        limits = _limits(options)
        if limits:
            plugins.insert(0, "limit")
            url = urlsplit(services.valkey.url)
            (config / "limit.ini").write_text(
                f"tarpit_delay=0\n[redis]\nhost={url.hostname}\nport={url.port}\n{limits}"
            )
        (config / "plugins").write_text("\n".join([*plugins, ""]))


def _limits(options: Options) -> str:
    """Return the sections of limit.ini."""
    text = ""
    if options.connections:
        text += f"[concurrency]\nenabled=true\nmax={options.connections}\n"
    if options.rate:
        number, seconds = options.rate
        text += f"[rate_rcpt_sender]\nenabled=true\ndefault={number}/{seconds}s\n"
    if options.recipients_of_connection:
        text += f"[recipients]\nenabled=true\nmax={options.recipients_of_connection}\n"
    return text
