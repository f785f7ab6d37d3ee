"""Speaks SMTP, verb by verb, so that the caller knows how far a transaction came. Knows neither Django nor Celery."""

from .errors import (
    CannotConnect,
    ConnectionLost,
    NotOffered,
    NoToken,
    PoolBusy,
    Refused,
    Seen,
    SMTPFailure,
    TLSFailed,
)
from .pool import Limits, Pool
from .relay import Envelope, Opening, Relay, Tokens
from .replies import Phase, Reply
from .session import Session, Started
from .watch import Watch

__all__ = [
    "CannotConnect",
    "ConnectionLost",
    "Envelope",
    "Limits",
    "NoToken",
    "NotOffered",
    "Opening",
    "Phase",
    "Pool",
    "PoolBusy",
    "Refused",
    "Relay",
    "Reply",
    "SMTPFailure",
    "Seen",
    "Session",
    "Started",
    "TLSFailed",
    "Tokens",
    "Watch",
]
