"""Postfix's policy server for each recipient: greylisting, and where to close the connection (SMTPD_POLICY_README)."""

from __future__ import annotations

import socketserver
import threading
import time


class Policy(socketserver.ThreadingTCPServer):
    """A policy server on loopback, in a thread."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Asked)
        self.port: int = self.server_address[1]
        self.forget()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def forget(self, *, greylist: int | None = None, hangs_up_at: str | None = None) -> None:
        """Forget all senders.

        Then defer unknown ones for ``greylist`` seconds, and close the connection at this recipient.
        """
        self._greylist, self._hangs_up_at = greylist, hangs_up_at
        self._seen: dict[tuple[str, str], float] = {}

    def action(self, sender: str, recipient: str) -> str:
        if recipient == self._hangs_up_at:
            return "521 5.1.1 no such user"
        key = sender, recipient
        if self._greylist and time.monotonic() - self._seen.setdefault(key, time.monotonic()) < self._greylist:
            return f"450 4.2.0 Greylisted, try again in {self._greylist} seconds"
        return "DUNNO"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Asked(socketserver.StreamRequestHandler):
    server: Policy

    def handle(self) -> None:
        asked: dict[str, str] = {}
        for line in self.rfile:
            name, is_value, value = line.decode().rstrip("\n").partition("=")
            if is_value:
                asked[name] = value
                continue
            action = self.server.action(asked.get("sender", ""), asked.get("recipient", ""))
            self.wfile.write(f"action={action}\n\n".encode())
            asked = {}
