"""The current problems that people should know of. The queries use indexes and a table that is almost empty."""

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
    """A problem: its kind, the affected object, and a text without addresses."""

    kind: Alert.Kind
    subject: str = ""
    text: str


@dataclass(frozen=True, kw_only=True)
class _AlertRule:
    """A rule that finds conditions.

    One query asks for the ``rows`` of all rules. Only if it finds any are the ``conditions`` evaluated, and a rule
    without such rows returns none.
    """

    rows: Callable[[], models.QuerySet[Any]]
    conditions: Callable[[], list[Condition]]


def anything_to_evaluate() -> bool:
    """Return whether there may be conditions or alerts, with one query, because most evaluations find none.

    Raises ``DatabaseError``.
    """
    alerts, *others = (
        found.order_by().annotate(found=Value(1)).values_list("found")
        for found in (known_alerts(), *(rule.rows() for rule in _RULES))
    )
    return bool(alerts.union(*others, all=True).order_by()[:1])


def known_alerts() -> models.QuerySet[Alert]:
    """Return the alerts of the kinds that this version has rules for.

    During an update, workers of a newer version may store alerts of other kinds. Only they can evaluate these.
    """
    return Alert.objects.filter(kind__in=Alert.Kind.values)


def firing_conditions() -> list[Condition]:
    """Return all current conditions. Raises ``DatabaseError``."""
    return [condition for rule in _RULES for condition in rule.conditions()]


def _relays() -> list[Condition]:
    """Return servers that refuse the login, and servers that are at fault for longer than ALERT_RELAY_AFTER seconds.

    A refused login is reported immediately.
    """
    found = {}
    since = timezone.now() - dt.timedelta(seconds=conf.get("ALERT_RELAY_AFTER"))
    for tripped in CircuitBreaker.objects.order_by("opened_at"):
        if tripped.cause in REFUSED_LOGIN:
            kind, words = Alert.Kind.LOGIN_REFUSED, "refuses the login"
        elif tripped.opened_at <= since:
            kind, words = Alert.Kind.RELAY_AT_FAULT, "does not accept mail"
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
            text=f"Mail of priority {priority} has been waiting for a worker for {age:.0f} s; "
            f"the limit is {limit:.0f} s",
        )
        for priority, age in oldest_due().items()
        if age > limit and priority != Priority.BULK  # a campaign may take any time
    ]


_WORDS = {
    Status.IN_DOUBT: (Alert.Kind.IN_DOUBT, "in doubt and held until a person decides"),
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
    """Return client secrets and certificates that expire within SECRET_ENDS_WITHIN, or have expired."""
    return [
        Condition(kind=Alert.Kind.SECRET_ENDS, subject=config.name, text=f"The {login.ending(config)}")
        for config in _ending()
    ]


def _ending() -> models.QuerySet[SMTPConfig]:
    return SMTPConfig.objects.filter(oauth_secret_ends__lte=login.soon())


def _held() -> models.QuerySet[Delivery]:
    # The first condition is that of the index. SQLite does not infer it from the second.
    return Delivery.objects.exclude(status=Status.ACCEPTED).filter(status__in=tuple(_WORDS))


def _late() -> models.QuerySet[Delivery]:
    return unclaimed().filter(due_at__lte=timezone.now() - dt.timedelta(seconds=conf.get("QUEUE_AGE_LIMIT")))


_RULES = (
    _AlertRule(rows=CircuitBreaker.objects.all, conditions=_relays),
    _AlertRule(rows=_late, conditions=_queue),
    _AlertRule(rows=_held, conditions=_waiting_for_people),
    _AlertRule(rows=_ending, conditions=_secrets),
)
