"""The domains of recipients, in a sample of the newest mails: only for users who may see addresses."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import F, QuerySet, TextField
from django.db.models.functions import Cast, Length

from email_integration.ledger import rows
from email_integration.models import Delivery, Status
from email_integration.outcomes import settlement

from .intervals import Interval
from .statistics import Choice

#: Mails in the sample: those that finished last, and the newest deferred ones. At most so many characters of JSON.
MAILS, CHARACTERS = 500, 2_000_000

#: How many domains are shown.
DOMAINS = 10


@dataclass(frozen=True, kw_only=True)
class DomainCount:
    """The recipients of a domain, by the outcome of the mail for them."""

    name: str
    accepted: int
    deferred: int
    failed: int


@dataclass(frozen=True, kw_only=True)
class Domains:
    """The domains with the most recipients, the number of those ``left_out``, and the number of mails in the sample."""

    found: Sequence[DomainCount]
    left_out: int
    mails: int


def by_domain(choice: Choice, whole: Interval) -> Domains:
    """Count the recipients of each domain in a sample of the last mails within ``whole`` that ``choice`` selects."""
    finished = Delivery.objects.filter(finished_at__gte=whole.start, finished_at__lt=whole.end)
    deferred = rows.in_status(Delivery.objects.all(), Status.DEFERRED)
    sample = [
        *_sample(finished.exclude(status=Status.CANCELLED), choice, by="finished_at"),
        *_sample(deferred, choice, by="created_at"),
    ]
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for recipients in sample:
        for item in recipients:
            domain = item["address"].rpartition("@")[2].casefold()
            counts[domain][item["status"]] += 1
    busiest = sorted(counts, key=lambda domain: (-counts[domain].total(), domain))
    found = [
        DomainCount(
            name=domain,
            accepted=counts[domain]["accepted"],
            deferred=counts[domain]["pending"],
            failed=counts[domain]["failed"],
        )
        for domain in busiest[:DOMAINS]
    ]
    return Domains(found=found, left_out=len(busiest) - len(found), mails=len(sample))


def _sample(found: QuerySet[Delivery], choice: Choice, *, by: str) -> Iterable[list[dict[str, Any]]]:
    """Yield the readable recipients of the newest mails. A mail with very many recipients may leave room for few."""
    sized = found.order_by(F(by).desc()).annotate(size=Length(Cast("recipients", TextField())))
    chosen, left = [], CHARACTERS
    for pk, priority, configuration, size in sized.values_list("pk", "priority", "smtp_config", "size")[:MAILS]:
        left -= size or 0
        if left < 0:
            break
        if choice.takes((priority, configuration)):
            chosen.append(pk)
    for delivery in Delivery.objects.filter(pk__in=chosen).only("status", "recipients", "from_at", "content_size"):
        if rows.is_readable(delivery):
            yield [item for item in delivery.recipients if item["address"] != settlement.ERASED]
