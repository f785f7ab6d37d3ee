"""The admin pages: configurations, deliveries, data learned about servers, and the pause of all sending."""

from .configs import SMTPConfigAdmin
from .deliveries import DeliveryAdmin
from .quirks import ServerQuirksAdmin

__all__ = ["DeliveryAdmin", "SMTPConfigAdmin", "ServerQuirksAdmin"]
