"""The mails that a user has selected in the list for an action: as a list, or all that match the filters.

A selection can be put into a form and into a ``BulkAction``, and read again later.
"""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Q
from django.http import HttpRequest, QueryDict
from django.utils import timezone

from email_integration.models import Delivery, Status

from .filters import LOOKED_THROUGH
from .typing import DeliveryModelAdmin

#: The largest number of selected mails that is counted.
COUNTED = 10_000

#: Up to this number of mails, "all that match" are listed too, and each one is known by its id.
LISTED = 500

#: Mails that are read at once to be handled.
_READ = 500

#: The attribute of a request that limits its list to mails of before, see ``SelectionQueries``.
_LIMITS = "_email_limits"

_NEWEST_FIRST = ("-created_at", "-pk")


@dataclass(frozen=True, kw_only=True)
class SelectedMail:
    """A selected mail. ``position`` is its place in the selection, as ``BulkAction.position`` stores it."""

    pk: str
    status: str
    position: list[Any]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What was selected, and up to COUNTED + 1 of the mails as (id, current status, whether the content is kept)."""

    stored: dict[str, Any]
    mails: Sequence[tuple[str, str, bool]]


class SelectionQueries(DeliveryModelAdmin):
    """Select mails for an action, and find them again."""

    def get_queryset(self, request: HttpRequest) -> Any:
        """Limit the list as the selection says, before its filters look through the newest mails."""
        limits = getattr(request, _LIMITS, None)
        queryset = super().get_queryset(request)
        return queryset if limits is None else queryset.filter(limits)

    def select(self, request: HttpRequest, queryset: Any) -> Selection:
        """Return the selection of an action's request. ``queryset`` are the mails, as Django passes them."""
        until = timezone.now()
        across = request.POST.get("select_across") == "1"
        queryset = queryset.filter(_limits(None, until)).order_by(*_NEWEST_FIRST)
        found = list(queryset.values_list("pk", "status", "batch", "has_content")[: COUNTED + 1])
        mails = [(pk, _current(status, batch), kept) for pk, status, batch, kept in found]
        if not across or len(mails) <= LISTED:
            return Selection(stored={"mails": [[pk, status] for pk, status, _kept in mails]}, mails=mails)
        moments = queryset.values_list("created_at", flat=True)[: LOOKED_THROUGH + 1]
        oldest = list(moments)
        # The filters that look only through the newest mails find at most LOOKED_THROUGH. Mails before the oldest of
        # these do not take the place of mails that stop to match.
        since = oldest[-1].isoformat() if len(oldest) <= LOOKED_THROUGH else None
        stored = {"query": _filters_only(request), "since": since, "until": until.isoformat()}
        return Selection(stored=stored, mails=mails)

    def next_mails(self, request: HttpRequest, stored: dict[str, Any], position: list[Any]) -> list[SelectedMail]:
        """Return the next mails of a stored selection after ``position``; an empty list at the end."""
        if "mails" in stored:
            begin = position[0] + 1 if position else 0
            listed = enumerate(stored["mails"][begin : begin + _READ], start=begin)
            return [SelectedMail(pk=pk, status=status, position=[place]) for place, (pk, status) in listed]
        return list(self._next_matching(request, stored, position))

    def _next_matching(
        self, request: HttpRequest, stored: dict[str, Any], position: list[Any]
    ) -> Iterator[SelectedMail]:
        since, until = (
            dt.datetime.fromisoformat(stored[name]) if stored[name] else None for name in ("since", "until")
        )
        asked = copy.copy(request)
        asked.GET = QueryDict(stored["query"])
        asked.method = "POST"  # reads from the primary
        setattr(asked, _LIMITS, _limits(since, until))
        queryset = self.get_changelist_instance(asked).get_queryset(asked).order_by(*_NEWEST_FIRST)
        if position:
            at, pk = dt.datetime.fromisoformat(position[0]), position[1]
            queryset = queryset.filter(created_at__lte=at).exclude(created_at=at, pk__gte=pk)
        for pk, status, batch, at in queryset.values_list("pk", "status", "batch", "created_at")[:_READ]:
            yield SelectedMail(pk=pk, status=_current(status, batch), position=[at.isoformat(), pk])


def _limits(since: dt.datetime | None, until: dt.datetime | None) -> Q:
    """Return the condition for mails that were submitted in this time, and did not end after it."""
    limits = Q()
    if until is not None:
        limits &= Q(created_at__lte=until) & (Q(finished_at=None) | Q(finished_at__lte=until))
    if since is not None:
        limits &= Q(created_at__gte=since)
    return limits


def _filters_only(request: HttpRequest) -> str:
    asked = request.GET.copy()
    for name in ("p", "o", "all", "e"):  # page, order, all on one page, Django's mark of an error
        asked.pop(name, None)
    return asked.urlencode()


def _current(status: str, batch: str) -> str:
    return Status.SENDING.value if batch else status


def first_mails(selection: Selection, number: int) -> list[Delivery]:
    """Return the first mails of the selection, with what a page shows about them."""
    ids = [pk for pk, _status, _kept in selection.mails[:number]]
    found = Delivery.objects.defer("content", "options").in_bulk(ids)
    return [found[pk] for pk in ids if pk in found]
