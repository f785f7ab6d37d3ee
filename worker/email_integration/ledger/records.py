"""An attempt, how it ended, and what else happens to a claimed mail, as the ledger records them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field

from email_integration.models import Delivery
from email_integration.outcomes.classification import Outcome
from email_integration.routing import Route

from .steps import Step


@dataclass(frozen=True, kw_only=True)
class Try:
    """One attempt: by which route, since when, how many seconds it took, and how many to wait before the next.

    ``late`` is for how many seconds it had been due when it began, and ``waited`` whether it had waited for its relay.
    ``worker_lost`` is one whose end is not known, because its process died.

    The rest is what it was sent with. ``from_header`` and ``sender`` are pinned on a mail that has none of its own:
    give them once a final dot was sent. ``smtp_config``, ``config_version`` and ``worker`` are for when the route is
    not known any more; they are those of the route and of this process otherwise.
    """

    route: Route | None
    started_at: dt.datetime
    duration: float | None = None
    tls_version: str = ""
    wait: float = 0.0
    late: float | None = None
    waited: bool = False
    worker_lost: bool = False
    from_header: str = field(default="", repr=False)
    sender: str = field(default="", repr=False)
    redirected_to: str = field(default="", repr=False)
    smtp_config: str = ""
    config_version: str = ""
    worker: str = ""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How an attempt at a delivery ended; the recipients ``withheld`` from the server are settled as failed with it."""

    delivery: Delivery
    outcome: Outcome
    attempt: Try
    withheld: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, kw_only=True)
class Untried:
    """What happens to a claimed delivery without an attempt; ``step`` is one of the makers of ``transitions``."""

    delivery: Delivery
    step: Callable[[Delivery], Step]


Change = Ended | Untried
