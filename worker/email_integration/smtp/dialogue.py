"""What every part of the dialogue needs: a reply or an error that says how far it had come."""

from __future__ import annotations

import contextlib
import smtplib
from collections.abc import Iterator

from .errors import ConnectionLost, SMTPFailure
from .replies import Phase, Reply

SILENT = "the server did not answer in time"
MALFORMED = "the server's answer is not SMTP"
LOST = "the connection was lost"


class Malformed(smtplib.SMTPException):
    """What came is no reply, or none that can come here."""


def parse(code: int, text: bytes | str) -> Reply:
    """Make a reply of what ``smtplib`` returns; raises ``Malformed`` for a line that is none (code -1)."""
    if not 200 <= code < 600:
        raise Malformed
    return Reply.parse(code, text)


@contextlib.contextmanager
def during(phase: Phase) -> Iterator[None]:
    """Turn the ways in which ``smtplib`` and sockets tell a lost or silent connection into ``ConnectionLost``."""
    try:
        yield
    except SMTPFailure:
        raise
    except (smtplib.SMTPException, OSError) as error:
        if isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError):
            detail = SILENT
        elif isinstance(error, Malformed | smtplib.SMTPResponseException):
            detail = MALFORMED
        else:
            detail = LOST
        raise ConnectionLost(phase, detail) from error
