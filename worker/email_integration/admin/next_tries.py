"""The next attempt: of a server at fault, and of a mail, with the reason. The one source of all pages that show it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass

from django.utils import timezone
from django.utils.translation import gettext as _

from email_integration import routing
from email_integration.models import CircuitBreaker, Delivery, Status
from email_integration.outcomes.causes import Cause
from email_integration.routing import breaker
from email_integration.smtp import Relay

from .isolation import isolated_text

#: Statuses of mail that is tried without a person's decision.
WAITING = (Status.QUEUED, Status.DEFERRED)


@dataclass(frozen=True, kw_only=True)
class NextTry:
    """The time of the next attempt, and the reason in one sentence. None means: when the reason has ended."""

    at: dt.datetime | None
    why: str


@dataclass(frozen=True, kw_only=True)
class Obstacle:
    """What holds back all mail: a server at fault, which is ``tried_at`` a time; None while there is no server."""

    tried_at: dt.datetime | None
    why: str


def open_breaker(relay: Relay) -> CircuitBreaker | None:
    """Return the open circuit breaker of ``relay``, or None."""
    return CircuitBreaker.objects.filter(pk=breaker.key(relay)).first()


def obstacle() -> Obstacle | None:
    """Return what holds back all mail now, or None."""
    relay = routing.active_relay()
    if not isinstance(relay, Relay):
        if relay.cause == Cause.PAUSED:
            return Obstacle(tried_at=None, why=_("Sending is paused. The mail is held until sending is resumed."))
        return Obstacle(tried_at=None, why=_("No server can be used. The mail is held until a configuration works."))
    tripped = open_breaker(relay)
    if tripped is None:
        return None
    why = _("The server of “%(name)s” is not working: %(reason)s. It is tried again then.")
    why = why % {"name": relay.name, "reason": isolated_text(tripped.reason.rstrip("."))}
    return Obstacle(tried_at=max(tripped.probe_at, timezone.now()), why=why)


def look_up(deliveries: Iterable[Delivery]) -> None:
    """Look up the obstacle once for all ``deliveries``, for ``next_try``."""
    waiting = [delivery for delivery in deliveries if delivery.current_status in WAITING]
    found = obstacle() if waiting else None
    for delivery in waiting:
        vars(delivery)["obstacle"] = found


def next_try(delivery: Delivery) -> NextTry | None:
    """Return the next automatic attempt. Return None if there is none, or if it is in progress.

    While the server is at fault, only one mail tries it, at the time that the notice names; the others follow. There is
    no time while sending is paused, or no server can be used.
    """
    if delivery.current_status not in WAITING:
        return None
    if "obstacle" not in vars(delivery):
        look_up([delivery])
    found: Obstacle | None = vars(delivery)["obstacle"]
    if found is not None:
        at = found.tried_at
        if at is not None and not delivery.waits_for_relay:
            at = max(at, delivery.due_at)
        return NextTry(at=at, why=found.why)
    if delivery.due_at <= timezone.now():
        return NextTry(at=delivery.due_at, why=_("It is due, and is sent as soon as a worker takes it."))
    if delivery.status == Status.DEFERRED and delivery.reason:
        return NextTry(
            at=delivery.due_at, why=_("Deferred: %(reason)s.") % {"reason": isolated_text(delivery.reason.rstrip("."))}
        )
    return NextTry(at=delivery.due_at, why=_("The application asked to send it then."))


def next_attempt(delivery: Delivery) -> dt.datetime | None:
    """Return the time of ``next_try``, or None."""
    found = next_try(delivery)
    return None if found is None else found.at
