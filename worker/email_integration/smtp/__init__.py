"""An SMTP client that works verb by verb, so the caller knows how far a transaction came. Needs no Django or Celery."""

from .content import ALONG_WITH_DOT
from .errors import (
    CannotConnect,
    ConnectionLost,
    NotOffered,
    NoToken,
    OutOfStep,
    PoolBusy,
    Refused,
    Seen,
    SMTPFailure,
    TLSFailed,
)
from .observer import SessionObserver
from .pool import Limits, Pool
from .quirks import Memory, Pipelining, Quirks
from .relay import Envelope, Opening, Relay, TokenSource
from .replies import Phase, Reply
from .session import Session
from .transaction import Started

__all__ = [
    "ALONG_WITH_DOT",
    "CannotConnect",
    "ConnectionLost",
    "Envelope",
    "Limits",
    "Memory",
    "NoToken",
    "NotOffered",
    "Opening",
    "OutOfStep",
    "Phase",
    "Pipelining",
    "Pool",
    "PoolBusy",
    "Quirks",
    "Refused",
    "Relay",
    "Reply",
    "SMTPFailure",
    "Seen",
    "Session",
    "SessionObserver",
    "Started",
    "TLSFailed",
    "TokenSource",
]
