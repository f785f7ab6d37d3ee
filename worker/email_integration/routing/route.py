"""The route of mail: a relay, or nowhere with the reason."""

from __future__ import annotations

from dataclasses import dataclass

from email_integration.outcomes.causes import Cause
from email_integration.smtp import Relay


@dataclass(frozen=True, kw_only=True)
class Nowhere:
    """There is no relay: mail is kept and waits. ``name`` and ``host`` are those of a configuration at fault.

    ``in_settings`` is the part of ``reason`` about the server in the project's settings.
    """

    cause: Cause
    reason: str
    in_settings: str = ""
    name: str = ""
    host: str = ""


Route = Relay | Nowhere
