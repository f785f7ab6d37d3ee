"""Staging safety: who is really written to when REDIRECT_ALL_TO or ALLOWED_RECIPIENTS is set.

Decided at each attempt, so that it also holds for mail that was submitted before, or came with a copy of a production
database. It changes the envelope alone; the content stays as it was submitted, byte for byte. What cannot be
understood stops mail, and never lets it through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from email_integration import conf
from email_integration.addresses import envelope_address, recipient_rule
from email_integration.exceptions import InvalidMail
from email_integration.outcomes.classification import Accepted, Failed, InDoubt, Outcome, Skipped


@dataclass(frozen=True, kw_only=True)
class Plan:
    """``envelope`` gets the mail, for ``recipients``; ``withheld`` are the recipients that nobody gets it for."""

    recipients: tuple[str, ...] = field(repr=False)
    envelope: tuple[str, ...] = field(repr=False)
    withheld: tuple[str, ...] = field(repr=False)
    redirected: bool

    @property
    def redirected_to(self) -> str:
        """Who got it instead, for the record; '' when nobody did."""
        return ", ".join(self.envelope) if self.redirected else ""

    def of_recipients(self, outcome: Outcome | Skipped) -> Outcome | Skipped:
        """What ``outcome``, which is about the envelope, means for the recipients."""
        if not self.redirected or isinstance(outcome, InDoubt | Skipped):
            return outcome
        if isinstance(outcome, Accepted):
            return replace(outcome, accepted=self.recipients, refused={}, unsupported=())
        if isinstance(outcome, Failed):
            return replace(outcome, recipients=None, refused={}, unsupported=())
        return replace(outcome, refused={}, recipients=())


def plan(recipients: Iterable[str], *, redirect_to: Iterable[str] = (), allowed: Iterable[str] = ()) -> Plan:
    """Decide who of ``recipients`` is written to: a pure function.

    ``redirect_to``, unless empty, takes everybody's place; ``allowed``, unless empty, has the last word on what is in
    the envelope. Both as ``redirections`` and ``permissions`` give them.
    """
    recipients, redirect_to, allowed = tuple(recipients), tuple(redirect_to), tuple(allowed)
    if not (redirect_to or allowed):
        return Plan(recipients=recipients, envelope=recipients, withheld=(), redirected=False)
    # Nobody to write to is not made somebody by a redirection.
    wanted = redirect_to if redirect_to and recipients else recipients
    envelope = tuple(address for address in wanted if not allowed or any(_fits(address, rule) for rule in allowed))
    redirected = bool(redirect_to and envelope)
    served = recipients if redirected else envelope
    return Plan(
        recipients=served,
        envelope=envelope,
        withheld=tuple(address for address in recipients if address not in served),
        redirected=redirected,
    )


def plan_now(recipients: Iterable[str]) -> Plan:
    """Decide by the settings in force. Raises ``ImproperlyConfigured`` when they cannot be understood."""
    return plan(
        recipients,
        redirect_to=redirections(conf.get("REDIRECT_ALL_TO")),
        allowed=permissions(conf.get("ALLOWED_RECIPIENTS")),
    )


def redirections(given: Any) -> tuple[str, ...]:
    """REDIRECT_ALL_TO as envelope addresses. Raises ``ImproperlyConfigured``."""
    return _each("REDIRECT_ALL_TO", given, envelope_address, "a mail address")


def permissions(given: Any) -> tuple[str, ...]:
    """ALLOWED_RECIPIENTS as rules to compare with. Raises ``ImproperlyConfigured``."""
    return _each("ALLOWED_RECIPIENTS", given, recipient_rule, "a mail address or a domain")


def _each(key: str, given: Any, parse: Callable[[str], str], what: str) -> tuple[str, ...]:
    if not isinstance(given, list | tuple | set | frozenset):
        raise ImproperlyConfigured(f"EMAIL_INTEGRATION[{key!r}] must be a list.")
    if not given:
        return ()
    parsed = []
    for number, item in enumerate(given, start=1):
        try:
            parsed.append(parse(item))
        except InvalidMail:
            # Without the item: this becomes the reason why a mail waits, and those hold no address.
            raise ImproperlyConfigured(
                f"EMAIL_INTEGRATION[{key!r}]: entry {number} of {len(given)} is not {what}."
            ) from None
    return tuple(dict.fromkeys(parsed))


def _fits(address: str, rule: str) -> bool:
    address = address.lower().rstrip(".")
    _local, at, domain = address.rpartition("@")
    if "@" in rule or not at:  # 'example.com' may be a user of the server's own
        return address == rule and "@" in rule
    if rule.startswith("."):
        return domain == rule[1:] or domain.endswith(rule)
    return domain == rule
