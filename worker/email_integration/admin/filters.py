"""The filters and the search of the list of deliveries, at a cost that does not grow with the table.

Status, date, task id and Message-ID have indexes. Other criteria search only the newest rows among those that status
and date select. The page says so if there are more.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import json
import operator
import re
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.db.models import Q, TextField
from django.db.models.functions import Cast
from django.http import HttpRequest
from django.utils.dateparse import parse_date
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from email_integration import routing
from email_integration.addresses import envelope_address
from email_integration.exceptions import InvalidMail
from email_integration.ledger.rows import in_status
from email_integration.message import previews, sealed_subjects
from email_integration.models import Delivery, Priority, SMTPConfig, Status
from email_integration.outcomes.causes import words_of
from email_integration.timezones import as_stored

#: Largest number of rows searched by a criterion without an index.
LOOKED_THROUGH = 25_000

#: Largest number of contents that are read to find a subject, in rows that do not have it outside the content.
OPENED = 500

#: Each filter is a menu above the list, which leaves its whole width to the list.
TEMPLATE = "email_integration/filter.html"

#: Characters of an id that the list shows and the search finds, and the sign for those that are left out.
_PART_OF_ID = 8
_CUT = "…"

#: What is copied with an id, an address or a subject: the name of a header, quotes, brackets, a full stop.
_PASTED = re.compile(r"""^(?:message-id:)?[\s"'“”‘’«»„<(\[]+|^message-id:|[\s"'“”‘’«»>)\],;.]+$""", re.IGNORECASE)

#: The filter offers the causes of this many mails of each of these statuses.
_REASONS_OF = 200
_WITH_REASONS = (Status.DEFERRED, Status.IN_DOUBT, Status.FAILED)


def newest(request: HttpRequest, queryset: Any) -> Any:
    """Return the newest rows, up to LOOKED_THROUGH; a message tells the user if there are more."""
    moments = queryset.order_by("-created_at").values_list("created_at", flat=True)
    beyond = list(moments[LOOKED_THROUGH : LOOKED_THROUGH + 1])
    if not beyond:
        return queryset
    if request.method == "GET":
        text = _("Only the newest %(count)s mails were looked through. Choose a status or a date to get to others.")
        messages.info(request, text % {"count": number_format(LOOKED_THROUGH)})
    return queryset.filter(created_at__gt=beyond[0])


class StatusFilter(admin.ChoicesFieldListFilter):
    """Filter by the displayed status, with an index that leaves out accepted mail."""

    template = TEMPLATE

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        chosen: Any = self.used_parameters.get("status__exact")
        if not chosen:
            return super().queryset(request, queryset)
        narrowed = [in_status(queryset, status) for status in chosen]
        return functools.reduce(operator.or_, narrowed)


class SubmittedFilter(admin.DateFieldListFilter):
    """Filter by the time of submission: Django's choices, or from one day to another, both included."""

    template = TEMPLATE
    first_day, last_day = "created_from", "created_to"

    def __init__(self, field: Any, request: HttpRequest, params: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(field, request, params, *args, **kwargs)
        used: Any = self.used_parameters
        given = {name: used.pop(name) for name in (self.first_day, self.last_day) if name in used}
        days = {name: _day(values[-1]) for name, values in given.items() if values[-1]}
        # Days in the wrong order are put into the right one.
        self.days = dict(zip(days, sorted(days.values()), strict=True))
        #: For the input elements.
        self.first, self.last = (
            self.days[name].isoformat() if name in self.days else "" for name in (self.first_day, self.last_day)
        )

    def expected_parameters(self) -> list[str | None]:
        return [*super().expected_parameters(), self.first_day, self.last_day]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        found: Any = super().queryset(request, queryset)
        if self.first_day in self.days:
            found = found.filter(created_at__gte=_start(self.days[self.first_day]))
        if self.last_day in self.days:
            found = found.filter(created_at__lt=_start(self.days[self.last_day] + dt.timedelta(days=1)))
        return found

    def choices(self, changelist: Any) -> Any:
        own = [self.field_generic, self.first_day, self.last_day]
        #: The other parameters of the list, for the form with the days.
        self.others = [
            (name, value)
            for name, values in changelist.filter_params.items()
            if not name.startswith(tuple(own))
            for value in values
        ]
        for choice, (_title, parameters) in zip(super().choices(changelist), self.links, strict=True):
            query_string = changelist.get_query_string(parameters, own)
            yield {**choice, "selected": choice["selected"] and not self.days, "query_string": query_string}


def _day(text: str) -> dt.date:
    try:
        day = parse_date(text)
        if day is not None:
            _start(day), _start(day + dt.timedelta(days=1))
            return day
    except (ValueError, OverflowError):
        pass
    raise IncorrectLookupParameters(f"{text!r} is not a date.")


def _start(day: dt.date) -> dt.datetime:
    """Return the first moment of ``day``, in the time zone in which times are shown. Raises ``OverflowError``."""
    return as_stored(dt.datetime.combine(day, dt.time.min))


class _AmongTheNewest(admin.SimpleListFilter):
    template = TEMPLATE

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        value = self.value()
        return queryset if value is None else newest(request, queryset).filter(**{str(self.parameter_name): value})


class PriorityFilter(_AmongTheNewest):
    """Filter by priority."""

    title = gettext_lazy("priority")
    parameter_name = "priority"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return Priority.choices


class ConfigFilter(_AmongTheNewest):
    """Filter by the configuration of the last attempt."""

    title = gettext_lazy("SMTP configuration")
    parameter_name = "smtp_config"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        names = [*SMTPConfig.objects.order_by("name").values_list("name", flat=True), routing.SETTINGS_NAME]
        return [(name, name) for name in names]


class CauseFilter(_AmongTheNewest):
    """Filter by recent causes."""

    title = gettext_lazy("reason")
    parameter_name = "cause"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        rows = Delivery.objects.exclude(status=Status.ACCEPTED).order_by("-created_at")
        found: set[str] = set()
        for status in _WITH_REASONS:
            found.update(rows.filter(status=status).values_list("cause", flat=True)[:_REASONS_OF])
        return sorted(((cause, words_of(cause)) for cause in found - {""}), key=operator.itemgetter(1))


def shown_id(delivery_id: str) -> str:
    """Return the id as the list shows it: its end, because ids of the same minute may have the same beginning."""
    return delivery_id if len(delivery_id) <= _PART_OF_ID + 1 else f"{_CUT}{delivery_id[-_PART_OF_ID:]}"


def search(request: HttpRequest, queryset: Any, words: str, *, may_see: bool) -> Any:
    """Search by task id or Message-ID; if none matches, by a part of the id as the list shows it.

    A user who ``may_see`` them also searches by recipient and subject.
    """
    bare = _PASTED.sub("", words) or words
    exact = queryset.filter(Q(pk__in={words, bare}) | Q(message_id__in={words, f"<{words}>", f"<{bare}>"}))
    if exact.order_by().exists():
        return exact
    part = bare.strip(f"{_CUT}.")
    found = Q(pk__startswith=part) | Q(pk__endswith=part) if len(part) >= _PART_OF_ID else Q(pk__in=[])
    looked_through = newest(request, queryset)
    if not may_see:
        return looked_through.filter(found)
    opened = looked_through.order_by("-created_at")
    with_subject = sealed_subjects.containing(bare, opened.exclude(subject="").values_list("pk", "subject"))
    # Rows of earlier versions have no subject outside their contents.
    older = opened.only("pk", "subject", "has_content", "content_file")
    readable = older.filter(subject="", has_content=True, content_file="")[:OPENED]
    wanted = bare.casefold()
    with_subject += [pk for pk, subject in previews.subjects(readable).items() if wanted in subject.casefold()]
    return looked_through.alias(said=Cast("recipients", TextField())).filter(
        found | Q(pk__in=with_subject) | _has_address(words) | _has_address(bare)
    )


def _has_address(words: str) -> Q:
    """Return a condition that the JSON text contains an address with ``words`` in it."""
    spellings = {words, json.dumps(words)[1:-1]}
    for address, begin in ((words, 0), (f"x@{words.removeprefix('@')}", 1)):  # an address, or a domain alone
        with contextlib.suppress(InvalidMail):
            spellings.add(envelope_address(address)[begin:])  # stored domains are ASCII
    found = Q()
    for spelling in spellings:
        # The first condition is fast, the second exact: servers' replies may contain the text too.
        found |= Q(said__icontains=spelling, said__iregex=f'"address": ?"[^"]*{re.escape(spelling)}')
    return found
