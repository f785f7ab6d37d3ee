"""The choice of the relay for mail."""

from .fallback import SETTINGS_NAME, settings_relay
from .resolver import active_relay, configured_route, forget, password_has_changed, password_is_elsewhere, relay_of
from .route import Nowhere, Route

__all__ = [
    "SETTINGS_NAME",
    "Nowhere",
    "Route",
    "active_relay",
    "configured_route",
    "forget",
    "password_has_changed",
    "password_is_elsewhere",
    "relay_of",
    "settings_relay",
]
