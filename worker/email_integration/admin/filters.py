"""The filters and the search of the list of deliveries, at a cost that does not grow with the table.

Status, date, task id and Message-ID have indexes. Other criteria search only the newest rows among those that status
and date select. The page says so if there are more.
"""

from __future__ import annotations

import contextlib
import functools
import json
import operator
import re
from typing import Any

from django.contrib import admin, messages
from django.db.models import Q, TextField
from django.db.models.functions import Cast
from django.http import HttpRequest
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from email_integration import routing
from email_integration.addresses import envelope_address
from email_integration.exceptions import InvalidMail
from email_integration.ledger.rows import in_status
from email_integration.message import previews
from email_integration.models import Delivery, Priority, SMTPConfig, Status
from email_integration.outcomes.causes import words_of

#: Largest number of rows searched by a criterion without an index.
LOOKED_THROUGH = 25_000

#: Largest number of contents that are read to find a subject.
OPENED = 500

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

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        chosen: Any = self.used_parameters.get("status__exact")
        if not chosen:
            return super().queryset(request, queryset)
        narrowed = [in_status(queryset, status) for status in chosen]
        return functools.reduce(operator.or_, narrowed)


class _AmongTheNewest(admin.SimpleListFilter):
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


def search(request: HttpRequest, queryset: Any, words: str, *, may_see: bool) -> Any:
    """Search by task id or Message-ID; if none matches and the user ``may_see`` them, by recipient or subject."""
    exact = queryset.filter(Q(pk=words) | Q(message_id__in=[words, f"<{words}>"]))
    if not may_see or exact.order_by().exists():
        return exact
    looked_through = newest(request, queryset)
    opened = looked_through.order_by("-created_at").only("pk", "has_content", "content_file")
    wanted = words.casefold()
    readable = opened.filter(has_content=True, content_file="")[:OPENED]
    subjects = previews.subjects(readable)
    with_subject = [pk for pk, subject in subjects.items() if wanted in subject.casefold()]
    return looked_through.alias(said=Cast("recipients", TextField())).filter(
        Q(pk__in=with_subject) | _has_address(words)
    )


def _has_address(words: str) -> Q:
    """Return a condition that the JSON text contains an address with ``words`` in it."""
    spellings = {words, json.dumps(words)[1:-1]}
    with contextlib.suppress(InvalidMail):
        spellings.add(envelope_address(words))  # stored domains are ASCII
    found = Q()
    for spelling in spellings:
        # The first condition is fast, the second exact: servers' replies may contain the text too.
        found |= Q(said__icontains=spelling, said__iregex=f'"address": ?"[^"]*{re.escape(spelling)}')
    return found
