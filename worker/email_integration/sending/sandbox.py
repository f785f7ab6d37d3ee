"""Staging safety: the real recipients when REDIRECT_ALL_TO or ALLOWED_RECIPIENTS is set.

They are decided at each attempt, so the settings also apply to mail that was submitted before, or came with a copy of a
production database. Only the envelope changes; the content stays byte for byte as submitted. An invalid setting stops
mail, and never lets it through.
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
    """The addresses in ``envelope`` receive the mail for ``recipients``.

    ``withheld`` are recipients without any delivery.
    """

    recipients: tuple[str, ...] = field(repr=False)
    envelope: tuple[str, ...] = field(repr=False)
    withheld: tuple[str, ...] = field(repr=False)
    redirected: bool

    @property
    def redirected_to(self) -> str:
        """The addresses that received the mail instead, for the record; '' without a redirection."""
        return ", ".join(self.envelope) if self.redirected else ""

    def of_recipients(self, outcome: Outcome | Skipped) -> Outcome | Skipped:
        """Return the outcome for the recipients. ``outcome`` is that for the envelope."""
        if not self.redirected or isinstance(outcome, InDoubt | Skipped):
            return outcome
        if isinstance(outcome, Accepted):
            return replace(outcome, accepted=self.recipients, refused={}, unsupported=())
        if isinstance(outcome, Failed):
            return replace(outcome, recipients=None, refused={}, unsupported=())
        return replace(outcome, refused={}, recipients=())


def plan(recipients: Iterable[str], *, redirect_to: Iterable[str] = (), allowed: Iterable[str] = ()) -> Plan:
    """Return who receives the mail for ``recipients``. This is a pure function.

    ``redirect_to``, unless empty, replaces all recipients. ``allowed``, unless empty, then filters the envelope. Both
    are in the form that ``redirections`` and ``permissions`` return.
    """
    recipients, redirect_to, allowed = tuple(recipients), tuple(redirect_to), tuple(allowed)
    if not (redirect_to or allowed):
        return Plan(recipients=recipients, envelope=recipients, withheld=(), redirected=False)
    # Without recipients, a redirection adds none.
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
    """Return the plan for the current settings. Raises ``ImproperlyConfigured`` when they are invalid."""
    return plan(
        recipients,
        redirect_to=redirections(conf.get("REDIRECT_ALL_TO")),
        allowed=permissions(conf.get("ALLOWED_RECIPIENTS")),
    )


def redirections(given: Any) -> tuple[str, ...]:
    """Return REDIRECT_ALL_TO as envelope addresses. Raises ``ImproperlyConfigured``."""
    return _each("REDIRECT_ALL_TO", given, envelope_address, "a mail address")


def permissions(given: Any) -> tuple[str, ...]:
    """Return ALLOWED_RECIPIENTS as rules for comparison. Raises ``ImproperlyConfigured``."""
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
            # The text omits the entry: it becomes the reason why a mail waits, and reasons contain no address.
            raise ImproperlyConfigured(
                f"EMAIL_INTEGRATION[{key!r}]: entry {number} of {len(given)} is not {what}."
            ) from None
    return tuple(dict.fromkeys(parsed))


def _fits(address: str, rule: str) -> bool:
    address = address.lower().rstrip(".")
    _local, at, domain = address.rpartition("@")
    if "@" in rule or not at:  # 'example.com' may be a user of the server itself
        return address == rule and "@" in rule
    if rule.startswith("."):
        return domain == rule[1:] or domain.endswith(rule)
    return domain == rule
