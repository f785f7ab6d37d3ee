"""Which relay a mail goes through now."""

from .resolver import Nowhere, Route, active_relay, forget, relay_of, settings_relay

__all__ = ["Nowhere", "Route", "active_relay", "forget", "relay_of", "settings_relay"]
