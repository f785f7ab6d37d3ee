"""Export the list of deliveries as CSV (RFC 4180), with its filters, in pieces."""

from __future__ import annotations

import csv
import datetime as dt
import logging
import re
from collections.abc import Callable, Generator, Iterator
from typing import Any

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.db.models import Q
from django.http import HttpRequest, HttpResponseRedirect, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext as _

from email_integration.ledger import rows
from email_integration.message import previews
from email_integration.models import Delivery
from email_integration.timezones import aware

from .contents import PRIVATE, may_see_content
from .refusing import MissingPermission
from .streaming import in_pieces
from .typing import DeliveryModelAdmin

logger = logging.getLogger(__name__)

#: Rows that one query reads.
BATCH = 500

#: A spreadsheet takes a cell that begins with one of these for a formula (OWASP: CSV Injection), also in full width.
#: Where its separator is the semicolon, it does not see our quotes, and a cell also begins after a semicolon or a line.
_FORMULA = re.compile(r"^(?= *[=+\-@\t\r\n＝＋－＠])|(?<=[;\r\n])(?= *[=+\-@＝＋－＠])")

#: The columns, with stable names for programs.
_COLUMNS: dict[str, Callable[[Delivery], object]] = {
    "id": lambda one: one.pk,
    "status": lambda one: one.current_status,
    "cause": lambda one: one.cause,
    "reason": lambda one: one.reason,
    "code": lambda one: one.code,
    "attempts": lambda one: one.attempts,
    "priority": lambda one: one.priority,
    "configuration": lambda one: one.smtp_config,
    "submitted_at": lambda one: _time(one.created_at),
    "due_at": lambda one: None if one.finished_at else _time(one.due_at),
    "finished_at": lambda one: _time(one.finished_at),
    "message_id": lambda one: one.message_id,
    "size": lambda one: one.content_size,
    "recipients": lambda one: len(one.recipients) if rows.is_readable(one) else None,
}

#: The columns for users who may see subjects and addresses.
_SENSITIVE: dict[str, Callable[[Delivery], object]] = {
    "subject": lambda one: getattr(one, "shown_subject", None),
    "from": previews.sender,
    "to": lambda one: "; ".join(item["address"] for item in one.recipients) if rows.is_readable(one) else None,
    "redirected_to": lambda one: one.redirected_to,
}


class ExportViews(DeliveryModelAdmin):
    """A file with all rows of the list."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.export_view)
        return [path("export/", view, name="email_integration_delivery_export"), *super().get_urls()]

    def export_view(self, request: HttpRequest) -> HttpResponseBase:
        """Return the rows that the list with the same query string shows, without its limit of rows.

        Users who may not see subjects and addresses get a file without these columns. Each export is recorded.
        """
        if request.method != "GET":
            raise PermissionDenied
        if not self.has_view_permission(request):
            raise MissingPermission("email_integration.view_delivery")
        try:
            queryset: Any = self.get_changelist_instance(request).queryset
        except IncorrectLookupParameters:
            return HttpResponseRedirect(f"{reverse('admin:email_integration_delivery_changelist')}?e=1")
        may_see = may_see_content(request)
        self._record_export(request, may_see=may_see)
        name = f"deliveries-{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}.csv"
        return StreamingHttpResponse(
            in_pieces(request, _file(queryset, may_see=may_see)),
            content_type="text/csv; charset=utf-8",
            headers={**PRIVATE, "Content-Disposition": f'attachment; filename="{name}"'},
        )

    def _record_export(self, request: HttpRequest, *, may_see: bool) -> None:
        """Record the export: no single delivery has it in its history, because a million may be in the file.

        The search words are not recorded, because they may be the address of a person.
        """
        words = (
            _("Exported, with subjects and addresses.") if may_see else _("Exported, without subjects and addresses.")
        )
        user: Any = request.user
        LogEntry.objects.create(
            user_id=user.pk,
            content_type=ContentType.objects.get_for_model(Delivery),
            object_repr=str(self.opts.verbose_name_plural),
            action_flag=CHANGE,
            change_message=words,
        )
        which = "with" if may_see else "without"
        logger.info("User %s exported the list of deliveries %s subjects and addresses.", user.pk, which)


def _file(queryset: Any, *, may_see: bool) -> Generator[bytes, None, None]:
    """Yield the lines of the file, as many as one query returns at a time."""
    columns = {**_COLUMNS, **(_SENSITIVE if may_see else {})}
    written: list[str] = []
    writer = csv.writer(_Lines(written), quoting=csv.QUOTE_ALL)
    writer.writerow(columns)
    yield f"\ufeff{''.join(written)}".encode()  # the mark tells spreadsheets the encoding
    for batch in _batches(queryset):
        subjects = previews.subjects(batch) if may_see else {}
        written.clear()
        for delivery in batch:
            delivery.shown_subject = subjects.get(delivery.pk)
            writer.writerow([cell(value(delivery)) for value in columns.values()])
        yield "".join(written).encode("utf-8", "replace")


def _batches(queryset: Any) -> Iterator[list[Any]]:
    """Yield the rows, newest first. Each query begins after the last row of the one before, by the index of the list.

    A cursor of the database would either need one transaction for as long as the download takes, or hold all rows.
    """
    rest = queryset = queryset.order_by("-created_at", "-pk")
    while batch := list(rest[:BATCH]):
        yield batch
        last = batch[-1]
        same_time = Q(created_at=last.created_at, pk__lt=last.pk)
        rest = queryset.filter(Q(created_at__lt=last.created_at) | same_time, created_at__lte=last.created_at)


def cell(value: object) -> object:
    """Return ``value`` for a cell. Text that a spreadsheet would take for a formula gets an apostrophe before it."""
    if value is None:
        return ""
    return _FORMULA.sub("'", value) if isinstance(value, str) else value


def _time(moment: dt.datetime | None) -> str | None:
    return None if moment is None else aware(moment).isoformat(timespec="seconds")


class _Lines:
    """The file that ``csv`` writes to."""

    def __init__(self, lines: list[str]) -> None:
        self.write = lines.append
