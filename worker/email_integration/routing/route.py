"""Where mail goes: a relay, or nowhere and why."""

from __future__ import annotations

from dataclasses import dataclass

from email_integration.smtp import Relay


@dataclass(frozen=True, kw_only=True)
class Nowhere:
    """There is no relay: mail is kept and waits."""

    reason: str


Route = Relay | Nowhere
