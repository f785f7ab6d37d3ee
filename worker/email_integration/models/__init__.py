"""What is stored: SMTP configurations, deliveries and their attempts, gates of relays at fault, alerts, the pause."""

from .alert import Alert
from .config import SMTPConfig
from .delivery import FINAL, Delivery, DeliveryAttempt, InDoubtPolicy, Lane, Status
from .gate import RelayGate
from .pause import SendingPause
from .querysets import NO_ACTIVE_CONFIG

__all__ = [
    "FINAL",
    "NO_ACTIVE_CONFIG",
    "Alert",
    "Delivery",
    "DeliveryAttempt",
    "InDoubtPolicy",
    "Lane",
    "RelayGate",
    "SMTPConfig",
    "SendingPause",
    "Status",
]
