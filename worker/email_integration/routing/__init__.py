"""Which relay a mail goes through now."""

from .fallback import SETTINGS_NAME, settings_relay
from .resolver import active_relay, forget, relay_of
from .route import Nowhere, Route

__all__ = ["SETTINGS_NAME", "Nowhere", "Route", "active_relay", "forget", "relay_of", "settings_relay"]
