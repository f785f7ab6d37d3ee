"""The values that the ledger records: an attempt, its outcome, and other changes of a claimed mail."""

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
    """One attempt.

    - ``duration``: how long it took, in seconds.
    - ``wait``: seconds to wait before the next attempt.
    - ``late``: for how many seconds the mail had been due when the attempt began.
    - ``waited``: whether the mail had waited for its relay.
    - ``worker_lost``: the outcome is unknown, because the process died.
    - ``from_header``, ``sender``: the sender that a mail without a fixed sender was sent with. Set them once a final
      dot was sent; they are then fixed on the mail.
    - ``smtp_config``, ``config_version``, ``worker``: set them only when the route is no longer known. By default they
      are those of the route and of this process.
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
    """The outcome of an attempt at a delivery.

    The recipients ``withheld`` from the server are settled as failed with it.
    """

    delivery: Delivery
    outcome: Outcome
    attempt: Try
    withheld: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, kw_only=True)
class Untried:
    """A change of a claimed delivery without an attempt. ``step`` is one of the step functions in ``transitions``."""

    delivery: Delivery
    step: Callable[[Delivery], Step]


Change = Ended | Untried
