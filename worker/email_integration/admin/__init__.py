"""The admin pages: configurations, deliveries, and the brake."""

from .configs import SMTPConfigAdmin
from .deliveries import DeliveryAdmin

__all__ = ["DeliveryAdmin", "SMTPConfigAdmin"]
