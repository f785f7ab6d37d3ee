"""Send one message directly, without a queue, a row or retries."""

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
    """Send ``message`` through the active relay and return the server's acceptance.

    With ``default_from_is_open`` a sender equal to DEFAULT_FROM_EMAIL counts as not chosen. The settings
    REDIRECT_ALL_TO and ALLOWED_RECIPIENTS apply.

    Raises ``InvalidMail`` for a message that cannot be sent as given, ``DeliveryFailed`` when it was permanently
    refused or its acceptance is in doubt, ``DeliveryDeferred`` when it may succeed at another time, and
    ``ImproperlyConfigured`` when a setting is invalid.
    """
    mail, plan = _mail(message, default_from_is_open=default_from_is_open)
    try:
        outcome = _offer_to_all(mail)
    except BreakerOpen as breaker_open:
        raise DeliveryDeferred(breaker_open.code, breaker_open.reason) from None
    return _accepted(plan.of_recipients(outcome))


def _offer_to_all(mail: OutgoingMail) -> Outcome | Skipped:
    """Send the mail, in as many transactions as the server requires for its recipients, until one fails.

    If some recipients were accepted, the mail counts as accepted when each other recipient has a reply, as in a single
    transaction. Otherwise this raises ``DeliveryFailed``, because sending the whole mail again would duplicate it.
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
    """Send the mail through the active relay. Raises the errors of ``transmit``, except ``Replaced``."""
    while True:
        route = routing.active_relay()
        if isinstance(route, routing.Nowhere):
            return nowhere(route)
        with contextlib.suppress(Replaced):
            return transmit(mail, route, Guard()).outcome


def _together(taken: Accepted | None, outcome: Accepted | Deferred | Failed) -> Accepted | None:
    """Return the acceptance so far, combined with another transaction; None if no recipient was accepted yet."""
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
    """Return whether, after all transactions, each recipient has a reply that concerns this recipient."""
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
