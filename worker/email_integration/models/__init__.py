"""What is stored: SMTP configurations, deliveries and their attempts, gates of relays at fault, the pause."""

from .config import SMTPConfig
from .delivery import FINAL, Delivery, DeliveryAttempt, InDoubtPolicy, Lane, Status
from .gate import RelayGate
from .pause import SendingPause
from .querysets import NO_ACTIVE_CONFIG

__all__ = [
    "FINAL",
    "NO_ACTIVE_CONFIG",
    "Delivery",
    "DeliveryAttempt",
    "InDoubtPolicy",
    "Lane",
    "RelayGate",
    "SMTPConfig",
    "SendingPause",
    "Status",
]
