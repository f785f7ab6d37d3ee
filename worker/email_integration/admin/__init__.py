"""The admin pages: configurations, deliveries, what was learned of servers, and the brake."""

from .configs import SMTPConfigAdmin
from .deliveries import DeliveryAdmin
from .quirks import ServerQuirksAdmin

__all__ = ["DeliveryAdmin", "SMTPConfigAdmin", "ServerQuirksAdmin"]
