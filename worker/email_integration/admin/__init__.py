"""The admin pages: configurations, deliveries, what was learned of servers, and the pause of all sending."""

from .configs import SMTPConfigAdmin
from .deliveries import DeliveryAdmin
from .quirks import ServerQuirksAdmin

__all__ = ["DeliveryAdmin", "SMTPConfigAdmin", "ServerQuirksAdmin"]
