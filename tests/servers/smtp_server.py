"""nodemailer's smtp-server, a library, with the limits of smtp_server.js."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from . import installing
from .server import PASSWORD, USER, Options, Server


class SMTPServerJS(Server):
    name = "smtp-server"
    installed = "node"
    relays = False
    hangs_up_silently = True
    unknown = frozenset({"recipients_of_connection"})

    def command(self) -> list[str | Path]:
        return [installing.node(), Path(__file__).with_suffix(".js"), self.folder / "options.json"]

    def configure(self, options: Options) -> None:
        wanted: dict[str, Any] = {
            field.name: getattr(options, field.name)
            for field in dataclasses.fields(options)
            if field.name != "certificate"
        }
        if options.certificate:
            certificate, key = self.write_certificates(self.folder)
            wanted |= {"certificate": str(certificate), "key": str(key)}
        wanted |= {"port": self.port, "tls_port": self.tls_port, "kept": str(self.kept)}
        wanted |= {"user": USER, "password": PASSWORD, "modules": str(installing.WHERE / "node" / "node_modules")}
        (self.folder / "options.json").write_text(json.dumps(wanted))
