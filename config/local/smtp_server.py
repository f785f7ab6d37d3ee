"""The SMTP server of the demo and the playground: the package's server, as a process that stores messages in a Maildir.

python -m config.local.smtp_server --port 2525 --maildir var/mail --plain --catch-all-any-auth
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from functools import partial
from pathlib import Path

from config.local.certificates import server_context
from config.local.maildir import write_to_maildir
from email_integration.smtpd import Fault, Message, SMTPServer


def keep(message: Message, maildir: Path) -> None:
    """Write a message to the Maildir, and print one line about it."""
    write_to_maildir(maildir, message)
    print(f"mail for {', '.join(message.rcpt_tos)}: {message.subject}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run a server until SIGTERM or Ctrl-C, and then shut it down in an orderly way."""
    parser = argparse.ArgumentParser(prog="python -m config.local.smtp_server", description=main.__doc__)
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    parser.add_argument("--maildir", type=Path, required=True, help="folder for accepted messages")
    parser.add_argument("--certificate", type=Path, help="PEM file; required without --plain")
    parser.add_argument("--key", type=Path, help="PEM file; required without --plain")
    parser.add_argument("--user", help="user name with which clients must log in")
    parser.add_argument("--password-from-env", metavar="NAME", help="environment variable with the password")
    parser.add_argument(
        "--pace", type=float, default=0, metavar="SECONDS", help="seconds before it replies to each message"
    )
    parser.add_argument("--catch-all-any-auth", action="store_true", help="accept any credentials or none")
    security = parser.add_mutually_exclusive_group()
    security.add_argument("--ssl", action="store_const", dest="security", const="tls", help="TLS from the first byte")
    security.add_argument("--plain", action="store_const", dest="security", const="plain", help="no TLS")
    parser.set_defaults(security="starttls")
    options = parser.parse_args(arguments)
    if options.security != "plain" and not (options.certificate and options.key):
        parser.error("--certificate and --key are required without --plain")
    if options.password_from_env and options.password_from_env not in os.environ:
        parser.error(f"--password-from-env: {options.password_from_env} is not set")

    server = SMTPServer(
        port=options.port,
        security=options.security,
        tls_context=None if options.security == "plain" else server_context(options.certificate, options.key),
        user=options.user,
        password=os.environ[options.password_from_env] if options.password_from_env else None,
        any_auth=options.catch_all_any_auth,
        faults=[Fault(verb="DOT", delay=options.pace)] if options.pace else (),
        on_message=partial(keep, maildir=options.maildir),
    )
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    server.start()
    print(f"SMTP server ready on {server.host}:{server.port}", flush=True)
    done.wait()
    server.stop_politely()
    return 0


if __name__ == "__main__":
    sys.exit(main())
