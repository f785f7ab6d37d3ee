"""The first section of the dashboard: the numbers of this moment, each a link to the mails that it counts."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.urls import reverse
from django.utils.formats import number_format
from django.utils.translation import gettext_lazy

from email_integration.dashboard import drawing, live_status, overdue
from email_integration.models import Priority, Status

from .linked_filters import CopyFilter

_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A current number, and the deliveries that it counts. ``kind`` is '' if the number is no problem."""

    label: Any
    number: str
    url: str
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class PriorityRow:
    """The throughput of a priority, and its mail that is overdue for longest, with its page."""

    label: Any
    per_minute: str
    overdue: str
    url: str


def listed(**narrowed: Any) -> str:
    """Return the address of the list with these filters."""
    return f"{reverse('admin:email_integration_delivery_changelist')}?{urlencode(narrowed, doseq=True)}"


def tiles(now: dt.datetime) -> Iterable[Tile]:
    """Yield the numbers of unfinished mail, and of mail that a person must look at."""
    for statuses, label, kind, since in (
        ((Status.QUEUED,), gettext_lazy("queued"), "", None),
        ((Status.DEFERRED,), gettext_lazy("deferred"), "", None),
        ((Status.IN_DOUBT,), gettext_lazy("in doubt"), "warning", None),
        (
            (Status.FAILED, Status.EXPIRED),
            gettext_lazy("failed or expired in the last 24 hours"),
            "error",
            now - _DAY,
        ),
        ((Status.QUARANTINED,), gettext_lazy("quarantined"), "error", None),
    ):
        number = live_status.number(*statuses, finished_since=since, without_copies=since is not None)
        narrowed = {"finished_at__gte": since.isoformat(), "copy": CopyFilter.NONE_ACCEPTED} if since else {}
        text = number_format(min(number, live_status.COUNTED)) + ("+" if number > live_status.COUNTED else "")
        url = listed(status__exact=[status.value for status in statuses], **narrowed)
        yield Tile(label=label, number=text, url=url, kind=kind if number else "")


def by_priority(now: dt.datetime) -> Iterable[PriorityRow]:
    """Yield a row for each priority."""
    waiting, throughput = overdue.longest_overdue(now), overdue.per_minute(now)
    for priority in Priority:
        oldest = waiting.get(priority)
        yield PriorityRow(
            label=priority.label,
            per_minute=number_format(throughput[priority], 1),
            overdue="–" if oldest is None else drawing.duration(max(0.0, (now - oldest.since).total_seconds())),
            url="" if oldest is None else reverse("admin:email_integration_delivery_change", args=[oldest.pk]),
        )


def context(now: dt.datetime) -> dict[str, Any]:
    """Return the values of the template, apart from the workers."""
    found = list(tiles(now))
    return {
        "now": now,
        "tiles": found,
        "problems": [tile for tile in found if tile.kind],
        "by_priority": list(by_priority(now)),
        "minutes": overdue.MINUTES,
    }
