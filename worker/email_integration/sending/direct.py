"""Send one message now, without queue, row or retry."""

from __future__ import annotations

import logging
from dataclasses import replace

from django.core.mail import EmailMessage

from email_integration.exceptions import DeliveryDeferred, DeliveryFailed
from email_integration.message.content import Content
from email_integration.message.rendering import render
from email_integration.outcomes import settlement
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Accepted, Failed, InDoubt, Outcome, Skipped
from email_integration.routing import gate
from email_integration.smtp import Relay

from . import sandbox
from .dispatch import Mail, dispatch
from .offering import goes_on

logger = logging.getLogger(__name__)


def send_now(message: EmailMessage, *, default_from_is_open: bool = False) -> Accepted:
    """Send ``message`` through the active relay and return what the server said.

    Raises ``InvalidMail`` for a message that cannot be sent as given, ``DeliveryFailed`` when it was refused for good
    or nobody knows whether it was taken, ``DeliveryDeferred`` when it could go another time. REDIRECT_ALL_TO and
    ALLOWED_RECIPIENTS hold here too; ``ImproperlyConfigured`` is raised when they cannot be understood.
    """
    mail, plan = _mail(message, default_from_is_open=default_from_is_open)
    try:
        outcome = _offer_to_all(mail)
    except gate.GateClosed as closed:
        raise DeliveryDeferred(closed.code, closed.reason) from None
    return _accepted(plan.of_recipients(outcome))


def _offer_to_all(mail: Mail) -> Outcome | Skipped:
    """Send it, in as many transactions as the server wants for its recipients, until one does not end well."""
    taken: Accepted | None = None
    while True:
        outcome = dispatch(mail, _always).outcome
        if isinstance(outcome, Accepted):
            before = taken or replace(outcome, accepted=(), refused={}, unsupported=())
            accepted = before.accepted + outcome.accepted
            refused = {**before.refused, **outcome.refused}
            taken = replace(
                outcome,
                accepted=accepted,
                refused={to: reply for to, reply in refused.items() if to not in accepted},
                unsupported=before.unsupported + outcome.unsupported,
            )
            outcome = taken
        if isinstance(outcome, Skipped) or not goes_on(outcome):
            return outcome
        rest = settlement.left(mail.recipients, outcome)
        if not rest:
            return outcome
        mail = replace(mail, recipients=rest)


def _mail(message: EmailMessage, *, default_from_is_open: bool) -> tuple[Mail, sandbox.Plan]:
    rendered = render(message, default_from_is_open=default_from_is_open)
    plan = sandbox.plan_now(rendered.recipients)
    if plan.withheld:
        logger.warning("%d of %d recipients %s", len(plan.withheld), len(rendered.recipients), Cause.WITHHELD.words)
    if not plan.envelope:
        raise DeliveryFailed(None, Cause.WITHHELD.words)
    mail = Mail(
        from_header=rendered.from_header,
        from_at=rendered.from_at,
        sender=rendered.sender,
        recipients=plan.envelope,
        content=Content.of(rendered.content),
    )
    return mail, plan


def _always(relay: Relay, from_header: str, sender: str) -> bool:
    return True


def _accepted(outcome: Outcome | Skipped) -> Accepted:
    if isinstance(outcome, Accepted):
        return outcome
    if isinstance(outcome, Failed):
        raise DeliveryFailed(outcome.code, outcome.reason)
    if isinstance(outcome, InDoubt):
        raise DeliveryFailed(outcome.code, outcome.reason, "in_doubt")
    raise DeliveryDeferred(None if isinstance(outcome, Skipped) else outcome.code, outcome.reason)
