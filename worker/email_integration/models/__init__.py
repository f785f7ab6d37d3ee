"""The stored data of the app.

These are SMTP configurations, deliveries and their attempts, the open circuit breakers of relays, alerts, the pause,
OAuth tokens, the learned quirks of servers, and confirmed bulk actions.
"""

from email_integration.outcomes.status import FINAL, Status

from .alert import Alert
from .breaker import CircuitBreaker
from .bulk_action import BulkAction
from .config import NO_ACTIVE_CONFIG, SMTPConfig
from .database_time import DatabaseTime
from .delivery import Delivery, DeliveryAttempt, DeliveryBatch, InDoubtPolicy, Priority, RevokedTask
from .installation import Installation
from .oauth import Grant, OAuthToken, RefreshFamily
from .pause import SendingPause
from .quirks import PipeliningQuirk, ServerQuirks
from .server import Authentication

__all__ = [
    "FINAL",
    "NO_ACTIVE_CONFIG",
    "Alert",
    "Authentication",
    "BulkAction",
    "CircuitBreaker",
    "DatabaseTime",
    "Delivery",
    "DeliveryAttempt",
    "DeliveryBatch",
    "Grant",
    "InDoubtPolicy",
    "Installation",
    "OAuthToken",
    "PipeliningQuirk",
    "Priority",
    "RefreshFamily",
    "RevokedTask",
    "SMTPConfig",
    "SendingPause",
    "ServerQuirks",
    "Status",
]
