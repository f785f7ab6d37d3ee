"""An attempt, a claim and an end, as the ledger is told of them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

from email_integration.models import Delivery
from email_integration.outcomes.classification import Outcome
from email_integration.routing import Route
from email_integration.smtp import Relay


@dataclass(frozen=True, kw_only=True)
class Try:
    """One attempt: by which route, since when, how many seconds it took, and how many to wait before the next.

    ``late`` is for how many seconds it had been due when it began. ``worker_lost`` is one that nobody saw the end of.
    """

    route: Route | None
    started_at: dt.datetime
    duration: float | None = None
    tls_version: str = ""
    wait: float = 0.0
    late: float | None = None
    worker_lost: bool = False


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Who wants to send the final dot of which delivery, where, and from whom."""

    delivery: Delivery
    relay: Relay
    from_header: str = field(repr=False)
    sender: str = field(repr=False)
    redirected_to: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How an attempt at a delivery ended."""

    delivery: Delivery
    outcome: Outcome
    attempt: Try
