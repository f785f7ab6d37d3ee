"""Send one message directly, without queue, row or retry."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace

from django.core.mail import EmailMessage

from email_integration import routing
from email_integration.exceptions import DeliveryDeferred, DeliveryFailed
from email_integration.message.content import of_rendered
from email_integration.message.rendering import render
from email_integration.outcomes import settlement
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Accepted, Deferred, Failed, InDoubt, Outcome, Skipped
from email_integration.routing.breaker import BreakerOpen
from email_integration.secrecy import with_secrets

from . import sandbox
from .guard import Guard
from .messages import OutgoingMail
from .offering import goes_on
from .relaying import nowhere, transmit
from .sessions import Replaced

logger = logging.getLogger(__name__)


@with_secrets
def send_directly(message: EmailMessage, *, default_from_is_open: bool = False) -> Accepted:
    """Send ``message`` through the active relay and return what the server said.

    Raises ``InvalidMail`` for a message that cannot be sent as given, ``DeliveryFailed`` when it was refused for good
    or nobody knows whether it was taken, ``DeliveryDeferred`` when it could go another time. REDIRECT_ALL_TO and
    ALLOWED_RECIPIENTS hold here too; ``ImproperlyConfigured`` is raised when they cannot be understood.
    """
    mail, plan = _mail(message, default_from_is_open=default_from_is_open)
    try:
        outcome = _offer_to_all(mail)
    except BreakerOpen as breaker_open:
        raise DeliveryDeferred(breaker_open.code, breaker_open.reason) from None
    return _accepted(plan.of_recipients(outcome))


def _offer_to_all(mail: OutgoingMail) -> Outcome | Skipped:
    """Send it, in as many transactions as the server wants for its recipients, until one does not end well.

    What was taken for some counts if each of the others has an answer of his own, as in a single transaction. Raises
    ``DeliveryFailed`` otherwise: to send it all another time would double it.
    """
    taken: Accepted | None = None
    rest = mail.recipients
    while True:
        try:
            outcome = _transmit(replace(mail, recipients=rest))
        except BreakerOpen as breaker_open:
            if taken is None:
                raise
            raise _taken_for_some(taken, mail, breaker_open) from None
        if isinstance(outcome, Accepted | Deferred | Failed):
            taken = _together(taken, outcome)
            rest = settlement.left(rest, outcome)
            if goes_on(outcome) and rest:
                continue
        if taken is None or isinstance(outcome, InDoubt | Skipped):
            return outcome
        if _is_answered(taken, mail, outcome):
            return taken
        raise _taken_for_some(taken, mail, outcome)


def _transmit(mail: OutgoingMail) -> Outcome | Skipped:
    """Send it by the relay that is active. Raises what ``transmit`` raises, but for ``Replaced``."""
    while True:
        route = routing.active_relay()
        if isinstance(route, routing.Nowhere):
            return nowhere(route)
        with contextlib.suppress(Replaced):
            return transmit(mail, route, Guard()).outcome


def _together(taken: Accepted | None, outcome: Accepted | Deferred | Failed) -> Accepted | None:
    """What was taken so far, with how another transaction ended; None as long as there was none."""
    if taken is None:
        return outcome if isinstance(outcome, Accepted) else None
    last = outcome if isinstance(outcome, Accepted) else taken
    accepted = taken.accepted + (outcome.accepted if isinstance(outcome, Accepted) else ())
    refused = {**taken.refused, **outcome.refused}
    return replace(
        last,
        accepted=accepted,
        refused={to: reply for to, reply in refused.items() if to not in accepted},
        unsupported=taken.unsupported + (() if isinstance(outcome, Deferred) else outcome.unsupported),
    )


def _is_answered(taken: Accepted, mail: OutgoingMail, last: Accepted | Deferred | Failed) -> bool:
    """Whether each recipient has an answer that is about him, after all of them."""
    refused = set(taken.refused)
    if not isinstance(last, Accepted):
        refused = {to for to, reply in taken.refused.items() if not reply.says_too_many_recipients}
    was_content = isinstance(last, Failed) and last.recipients != ()
    return not was_content and {*taken.accepted, *refused, *taken.unsupported}.issuperset(mail.recipients)


def _taken_for_some(
    taken: Accepted, mail: OutgoingMail, why: Accepted | Deferred | Failed | BreakerOpen
) -> DeliveryFailed:
    reason = Cause.CONNECTION_LOST.words if isinstance(why, Accepted) else why.reason
    for_some = f"accepted for {len(taken.accepted)} of {len(mail.recipients)} recipients"
    return DeliveryFailed(None if isinstance(why, Accepted) else why.code, f"{for_some}, then: {reason}")


def _mail(message: EmailMessage, *, default_from_is_open: bool) -> tuple[OutgoingMail, sandbox.Plan]:
    rendered = render(message, default_from_is_open=default_from_is_open)
    plan = sandbox.plan_now(rendered.recipients)
    if plan.withheld:
        logger.warning("%d of %d recipients %s", len(plan.withheld), len(rendered.recipients), Cause.WITHHELD.words)
    if not plan.envelope:
        raise DeliveryFailed(None, Cause.WITHHELD.words)
    mail = OutgoingMail(
        from_header=rendered.from_header,
        from_at=rendered.from_at,
        sender=rendered.sender,
        recipients=plan.envelope,
        content=of_rendered(rendered),
    )
    return mail, plan


def _accepted(outcome: Outcome | Skipped) -> Accepted:
    if isinstance(outcome, Accepted):
        return outcome
    if isinstance(outcome, Failed):
        raise DeliveryFailed(outcome.code, outcome.reason)
    if isinstance(outcome, InDoubt):
        raise DeliveryFailed(outcome.code, outcome.reason, "in_doubt")
    raise DeliveryDeferred(None if isinstance(outcome, Skipped) else outcome.code, outcome.reason)
