"""The dashboard: the server in use, waiting mail, and recent results."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, pgettext_lazy

from email_integration import routing
from email_integration.dashboard import drawing, live_status, shares, statistics
from email_integration.dashboard.intervals import PERIODS, Interval
from email_integration.ledger import rows
from email_integration.models import Priority, SMTPConfig, Status
from email_integration.outcomes.causes import words_of

from .typing import DeliveryModelAdmin

_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A current number, and the deliveries that it counts. ``kind`` is '' if the number is no problem."""

    label: Any
    number: str
    url: str
    kind: str = ""


class DashboardViews(DeliveryModelAdmin):
    """A single page, for users who may view deliveries."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.dashboard_view)
        return [path("dashboard/", view, name="email_integration_dashboard"), *super().get_urls()]

    def dashboard_view(self, request: HttpRequest) -> HttpResponse:
        """Show the live status, and the statistics that ``period``, ``priority`` and ``smtp_config`` select."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        workers = live_status.workers()  # they answer while the database is queried
        now = timezone.now()
        asked = request.GET
        chosen = asked["period"] if asked.get("period") in PERIODS else "day"
        priority = asked.get("priority") if asked.get("priority") in Priority.values else None
        name = asked.get("smtp_config")
        choice = statistics.Choice(priority=priority, configuration=name if rows.is_name(name) else None)
        context = {
            **self.admin_site.each_context(request),
            "title": _("Dashboard"),
            "opts": self.opts,
            "now": now,
            "patience": live_status.FOR_WORKERS,
            "tiles": list(self._tiles(request, now)),
            "choice": choice,
            "priorities": Priority.choices,
            "configurations": _configurations(choice.configuration),
            "periods": [(_narrowed(choice, name), each.title, name == chosen) for name, each in PERIODS.items()],
            "period": chosen,
            **self._past(choice, chosen, now),
            "workers": workers(),
        }
        return TemplateResponse(
            request, "email_integration/dashboard.html", context, headers={"Cache-Control": "no-store"}
        )

    def _tiles(self, request: HttpRequest, now: dt.datetime) -> Iterable[Tile]:
        for status, label, kind, since in (
            (Status.QUEUED, gettext_lazy("queued"), "", None),
            (Status.DEFERRED, gettext_lazy("deferred"), "", None),
            (Status.IN_DOUBT, gettext_lazy("in doubt"), "warning", None),
            (Status.FAILED, gettext_lazy("failed in the last 24 hours"), "error", now - _DAY),
            (Status.QUARANTINED, gettext_lazy("quarantined"), "error", None),
        ):
            number = live_status.number(status, finished_since=since)
            narrowed = {"finished_at__gte": since.isoformat()} if since else {}
            text = number_format(min(number, live_status.COUNTED)) + ("+" if number > live_status.COUNTED else "")
            yield Tile(
                label=label, number=text, url=_listed(status__exact=status, **narrowed), kind=kind if number else ""
            )
        oldest = live_status.oldest_waiting()
        # The list numbers its columns. If there are actions, the first column has their checkboxes.
        by_age = -(bool(self.get_actions(request)) + list(self.get_list_display(request)).index("age"))
        yield Tile(
            label=gettext_lazy("oldest waiting"),
            number="–" if oldest is None else drawing.duration(max(0.0, (now - oldest.since).total_seconds())),
            url=_listed(status__exact=Status.QUEUED if oldest is None else oldest.status, o=by_age),
        )

    def _past(self, choice: statistics.Choice, chosen: str, now: dt.datetime) -> dict[str, Any]:
        period = PERIODS[chosen]
        intervals = period.intervals(now)
        names = [period.name(each) for each in intervals]
        counted = statistics.flows(intervals)
        flows = [statistics.total(each, choice) for each in counted]
        busy = [each for each, flow in zip(intervals, flows, strict=True) if flow.accepted]
        found = dict(zip(busy, statistics.times(choice, busy), strict=True))
        times = [found.get(each) for each in intervals]
        whole = Interval(start=intervals[0].start, end=intervals[-1].end)
        causes = statistics.frequent_causes(choice, whole)
        return {
            "marks": [
                drawing.Mark(at=drawing.across(number, len(intervals)), text=period.mark(each.start))
                for number, each in enumerate(intervals)
                if period.is_mark(each.start)
            ],
            "height": drawing.HEIGHT,
            "flows": [_chart(status, label, flows, names) for status, label in _FLOWS],
            "times": _times(times, names),
            "rows": list(zip(names, flows, [_shown(each) for each in times], strict=True)),
            "sample": statistics.PARTS * statistics.OF_EACH_PART,
            **_shares(shares.break_down(choice, intervals, counted), chosen),
            "causes": [
                (
                    _OUTCOMES.get(each.outcome, each.outcome),
                    words_of(each.cause),
                    each.number,
                    _listed(cause=each.cause),
                )
                for each in causes.found
            ],
            "causes_since": causes.since,
        }


#: The names of the outcomes of an attempt. A damaged row may have another value.
_OUTCOMES: dict[str, Any] = dict(Status.choices)

#: One bar chart for each.
_FLOWS = (
    ("accepted", pgettext_lazy("mails", "accepted")),
    ("deferred", pgettext_lazy("attempts", "deferred")),
    ("failed", pgettext_lazy("mails", "failed")),
)


def _chart(status: str, label: Any, flows: Sequence[statistics.Flow], names: Sequence[str]) -> dict[str, Any]:
    values = [getattr(each, status) for each in flows]
    bars, marks = drawing.bars(values, names)
    return {"status": status, "label": label, "total": sum(values), "bars": bars, "ticks": marks}


def _times(times: Sequence[statistics.Times | None], names: Sequence[str]) -> dict[str, Any] | None:
    if not any(times):
        return None
    medians, highs = ([None if each is None else getattr(each, name) for each in times] for name in ("median", "p95"))
    (median, p95), ticks = drawing.lines((medians, highs), names)
    return {"median": median, "p95": p95, "ticks": ticks}


def _shown(times: statistics.Times | None) -> tuple[str, str]:
    return ("–", "–") if times is None else (drawing.duration(times.median), drawing.duration(times.p95))


def _listed(**narrowed: Any) -> str:
    return f"{reverse('admin:email_integration_delivery_changelist')}?{urlencode(narrowed)}"


def _shares(found: shares.Breakdown, period: str) -> dict[str, Any]:
    return {
        "shares": [
            (
                title,
                [(label(each.name), _narrowed(each.choice, period), each.flow, _shown(each.times)) for each in of_one],
            )
            for title, label, of_one in (
                (gettext_lazy("SMTP configuration"), str, found.configurations),
                (gettext_lazy("priority"), lambda name: Priority(name).label, found.priorities),
            )
        ],
        "shares_left_out": found.left_out,
    }


def _narrowed(choice: statistics.Choice, period: str) -> str:
    given = {"period": period, "priority": choice.priority, "smtp_config": choice.configuration}
    return f"?{urlencode({key: value for key, value in given.items() if value})}"


def _configurations(chosen: str | None) -> list[str]:
    """Return the names of all configurations, of the fallback, and the chosen one, which may be deleted."""
    names = [*SMTPConfig.objects.order_by("name").values_list("name", flat=True), routing.SETTINGS_NAME]
    return names if not chosen or chosen in names else [*names, chosen]
