"""What is stored: SMTP configurations, deliveries, what happened at each attempt, and whether sending is paused."""

from .config import SMTPConfig
from .delivery import FINAL, Delivery, DeliveryAttempt, Status
from .pause import SendingPause
from .querysets import NO_ACTIVE_CONFIG

__all__ = ["FINAL", "NO_ACTIVE_CONFIG", "Delivery", "DeliveryAttempt", "SMTPConfig", "SendingPause", "Status"]
