"""Where mail goes: a relay, or nowhere and why."""

from __future__ import annotations

from dataclasses import dataclass

from email_integration.smtp import Relay


@dataclass(frozen=True, kw_only=True)
class Nowhere:
    """There is no relay: mail is kept and waits. ``name`` and ``host`` are those of a configuration at fault."""

    reason: str
    name: str = ""
    host: str = ""


Route = Relay | Nowhere
