"""Store messages in a Maildir, for other processes to read."""

from __future__ import annotations

import email
import email.message
import email.policy
import os
import threading
import time
from pathlib import Path

from email_integration.smtpd import Message


def write_to_maildir(maildir: Path, message: Message) -> Path:
    """Write a message to ``new/``, whole or not at all, with its envelope in front as delivery agents do it."""
    for folder in ("tmp", "new", "cur"):
        (maildir / folder).mkdir(parents=True, exist_ok=True)
    name = f"{time.time_ns()}.{os.getpid()}_{threading.get_ident()}.localhost"
    envelope = [f"Return-Path: <{message.mail_from}>", *(f"Delivered-To: {to}" for to in message.rcpt_tos)]
    draft = maildir / "tmp" / name
    draft.write_bytes("".join(f"{line}\r\n" for line in envelope).encode() + message.content)
    return draft.rename(maildir / "new" / name)


def read_maildir(maildir: Path) -> list[email.message.EmailMessage]:
    """Read all messages, oldest first, with their envelopes as Return-Path and Delivered-To."""
    files = [path for folder in ("new", "cur") for path in (maildir / folder).glob("*")]
    return [
        email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
        for path in sorted(files, key=lambda path: path.name)
    ]
