"""Filters that the numbers of the dashboard link to. The list shows one only while it is in use, to remove it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.http import HttpRequest
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from email_integration.dashboard import statistics
from email_integration.dashboard.intervals import Interval
from email_integration.ledger.rows import accepted_as_copy
from email_integration.models import Status
from email_integration.outcomes.causes import words_of
from email_integration.timezones import as_stored, aware, exactly

from .filters import TEMPLATE


class _Linked(admin.SimpleListFilter):
    template = TEMPLATE

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        value = self.value()
        return () if value is None else [(value, self.words(value))]

    def words(self, value: str) -> str:
        """Return the value in words."""
        raise NotImplementedError


class FinishedFilter(_Linked):
    """Mail that finished since a time."""

    title = gettext_lazy("finished")
    parameter_name = "finished_at__gte"

    def words(self, value: str) -> str:
        return _("since %(when)s") % {"when": exactly(_moment(value))}

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        value = self.value()
        return queryset if value is None else queryset.filter(finished_at__gte=_moment(value))


class CopyFilter(_Linked):
    """Mail of which no copy was accepted."""

    title = gettext_lazy("copy")
    parameter_name = "copy"
    NONE_ACCEPTED = "none"

    def words(self, value: str) -> str:
        return _("no accepted copy")

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset.exclude(accepted_as_copy(queryset)) if self.value() == self.NONE_ACCEPTED else queryset


class AttemptFilter(_Linked):
    """Mail with an attempt that ended in a given way, within the time and the choice of the dashboard."""

    title = gettext_lazy("attempt")
    parameter_name = "attempt"

    @classmethod
    def linked(cls, choice: statistics.Choice, found: statistics.FrequentCauses, count: statistics.CauseCount) -> str:
        """Return the value of the parameter for the mails that ``count`` has counted."""
        start = found.within.start if found.since is None else found.since
        given = {
            "outcome": count.outcome,
            "cause": count.cause,
            "from": aware(start).isoformat(),
            "to": aware(found.within.end).isoformat(),
            "priority": choice.priority,
            "smtp_config": choice.configuration,
        }
        return urlencode({name: value for name, value in given.items() if value is not None})

    def words(self, value: str) -> str:
        given = _parsed(value)
        outcome = dict(Status.choices).get(given["outcome"], given["outcome"])
        words = _("%(outcome)s, %(reason)s, %(start)s to %(end)s") % {
            "outcome": outcome,
            "reason": words_of(given["cause"]) or "–",
            "start": exactly(_moment(given["from"])),
            "end": exactly(_moment(given["to"])),
        }
        return ", ".join([words, *(given[name] for name in ("priority", "smtp_config") if name in given)])

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        value = self.value()
        if value is None:
            return queryset
        given = _parsed(value)
        choice = statistics.Choice(priority=given.get("priority"), configuration=given.get("smtp_config"))
        within = Interval(start=_moment(given["from"]), end=_moment(given["to"]))
        attempts, _since = statistics.not_accepted(choice, within)
        found = attempts.filter(outcome=given["outcome"], cause=given["cause"])
        return queryset.filter(pk__in=found.using(queryset.db).values("delivery"))


def _parsed(value: str) -> Mapping[str, str]:
    try:
        given = dict(parse_qsl(value, keep_blank_values=True, max_num_fields=6))
    except ValueError as error:
        raise IncorrectLookupParameters(error) from error
    if not {"outcome", "cause", "from", "to"} <= given.keys() or "\0" in "".join(given.values()):
        raise IncorrectLookupParameters(f"{value!r} does not describe an attempt.")
    return given


def _moment(text: str) -> dt.datetime:
    try:
        moment = parse_datetime(text)
        if moment is not None:
            return as_stored(moment)
    except (ValueError, OverflowError):
        pass
    raise IncorrectLookupParameters(f"{text!r} is not a time.")
