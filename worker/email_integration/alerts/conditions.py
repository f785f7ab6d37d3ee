"""What is wrong now that a person should know of: asked of indexes and of a table that is all but empty."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.db import models
from django.db.models import Count, Value
from django.utils import timezone

from email_integration import conf
from email_integration.models import Alert, CircuitBreaker, Delivery, Priority, SMTPConfig, Status, login
from email_integration.outcomes.causes import REFUSED_LOGIN
from email_integration.queue.waiting import oldest_due, unclaimed


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Something that is wrong: of which kind, with what, and in words that hold no address."""

    kind: Alert.Kind
    subject: str = ""
    text: str


@dataclass(frozen=True, kw_only=True)
class _AlertRule:
    """What is looked for. One query asks for the ``rows`` of all rules. Only if it finds any the ``conditions`` are
    asked, which find nothing where there are no such rows.
    """

    rows: Callable[[], models.QuerySet[Any]]
    conditions: Callable[[], list[Condition]]


def anything_to_evaluate() -> bool:
    """Whether anything may be wrong, or was: one query, as most evaluations find nothing. Raises ``DatabaseError``."""
    alerts, *others = (
        found.order_by().annotate(found=Value(1)).values_list("found")
        for found in (Alert.objects.all(), *(rule.rows() for rule in _RULES))
    )
    return bool(alerts.union(*others, all=True).order_by()[:1])


def firing_conditions() -> list[Condition]:
    """All that is wrong now. Raises ``DatabaseError``."""
    return [condition for rule in _RULES for condition in rule.conditions()]


def _relays() -> list[Condition]:
    """A server that refuses the password at once, and one that is at fault for longer than ALERT_RELAY_AFTER."""
    found = {}
    since = timezone.now() - dt.timedelta(seconds=conf.get("ALERT_RELAY_AFTER"))
    for tripped in CircuitBreaker.objects.order_by("opened_at"):
        if tripped.cause in REFUSED_LOGIN:
            kind, words = Alert.Kind.LOGIN_REFUSED, "refuses the login"
        elif tripped.opened_at <= since:
            kind, words = Alert.Kind.RELAY_AT_FAULT, "takes no mail"
        else:
            continue
        text = f"The server of {tripped.smtp_config} {words}: {tripped.reason}"
        found[kind, tripped.smtp_config] = Condition(kind=kind, subject=tripped.smtp_config, text=text)
    return list(found.values())


def _queue() -> list[Condition]:
    limit = conf.get("QUEUE_AGE_LIMIT")
    return [
        Condition(
            kind=Alert.Kind.QUEUE_LATE,
            subject=priority,
            text=f"Mail of priority {priority} waits for a worker for {age:.0f} s; the limit is {limit:.0f} s",
        )
        for priority, age in oldest_due().items()
        if age > limit and priority != Priority.BULK  # a campaign may take as long as it takes
    ]


_WORDS = {
    Status.IN_DOUBT: (Alert.Kind.IN_DOUBT, "in doubt and held for a person"),
    Status.QUARANTINED: (Alert.Kind.QUARANTINED, "quarantined"),
}


def _waiting_for_people() -> list[Condition]:
    found = []
    for status, number in _held().order_by().values_list("status").annotate(Count("pk")):
        kind, words = _WORDS[Status(status)]
        text = f"1 mail is {words}" if number == 1 else f"{number} mails are {words}"
        found.append(Condition(kind=kind, text=text))
    return found


def _secrets() -> list[Condition]:
    """A client secret or a certificate that ends within SECRET_ENDS_WITHIN, or has ended."""
    return [
        Condition(kind=Alert.Kind.SECRET_ENDS, subject=config.name, text=f"The {login.ending(config)}")
        for config in _ending()
    ]


def _ending() -> models.QuerySet[SMTPConfig]:
    return SMTPConfig.objects.filter(oauth_secret_ends__lte=login.soon())


def _held() -> models.QuerySet[Delivery]:
    # The first condition is the index's own: SQLite does not see that it follows from the second.
    return Delivery.objects.exclude(status=Status.ACCEPTED).filter(status__in=tuple(_WORDS))


def _late() -> models.QuerySet[Delivery]:
    return unclaimed().filter(due_at__lte=timezone.now() - dt.timedelta(seconds=conf.get("QUEUE_AGE_LIMIT")))


_RULES = (
    _AlertRule(rows=CircuitBreaker.objects.all, conditions=_relays),
    _AlertRule(rows=_late, conditions=_queue),
    _AlertRule(rows=_held, conditions=_waiting_for_people),
    _AlertRule(rows=_ending, conditions=_secrets),
)
