"""The dashboard: the server in use, waiting mail, and recent results."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, pgettext_lazy

from email_integration import routing
from email_integration.dashboard import domains, drawing, kept_counts, live_status, shares, statistics
from email_integration.dashboard.intervals import Interval, fitting, offered
from email_integration.ledger import rows
from email_integration.models import Priority, SMTPConfig, Status
from email_integration.outcomes.causes import words_of

from . import dashboard_now
from .contents import may_see_content
from .linked_filters import AttemptFilter
from .refusing import MissingPermission
from .typing import DeliveryModelAdmin

#: The header with which the page's script requests the first section alone, and how often, in seconds.
PART, EVERY = "X-Dashboard-Part", 15


class DashboardViews(DeliveryModelAdmin):
    """A single page, for users who may view deliveries."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.dashboard_view)
        return [path("dashboard/", view, name="email_integration_dashboard"), *super().get_urls()]

    def dashboard_view(self, request: HttpRequest) -> HttpResponse:
        """Show the live status, and the statistics that ``period``, ``priority`` and ``smtp_config`` select."""
        if not self.has_view_permission(request):
            raise MissingPermission("email_integration.view_delivery")
        workers = live_status.workers()  # they answer while the database is queried
        now = timezone.now()
        context = {**self.admin_site.each_context(request), **dashboard_now.context(now), "opts": self.opts}
        template = "email_integration/dashboard_part.html"
        if request.headers.get(PART) != "now":
            context |= self._past(request, now)
            template = "email_integration/dashboard.html"
        context["workers"] = workers()
        return TemplateResponse(request, template, context, headers={"Cache-Control": "no-store", "Vary": PART})

    def _past(self, request: HttpRequest, now: dt.datetime) -> dict[str, Any]:
        asked, periods = request.GET, offered()
        chosen = asked["period"] if asked.get("period") in periods else fitting(now)
        priority = asked.get("priority") if asked.get("priority") in Priority.values else None
        name = asked.get("smtp_config")
        choice = statistics.Choice(priority=priority, configuration=name if rows.is_name(name) else None)
        period = periods[chosen]
        intervals = period.intervals(now)
        names = [period.name(each) for each in intervals]
        counted = kept_counts.flows(period, intervals, now)
        flows = [statistics.total(each, choice) for each in counted]
        busy = [each for each, flow in zip(intervals, flows, strict=True) if flow.accepted]
        found = dict(zip(busy, statistics.times(choice, busy), strict=True))
        times = [found.get(each) for each in intervals]
        whole = Interval(start=intervals[0].start, end=now)
        causes = statistics.frequent_causes(choice, whole)
        return {
            "title": _("Dashboard"),
            "choice": choice,
            "priorities": Priority.choices,
            "configurations": _configurations(choice.configuration),
            "periods": [(_narrowed(choice, name), each.title, name == chosen) for name, each in periods.items()],
            "period": chosen,
            "every": EVERY,
            "refresh": period.refresh,
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
                (title, [_reason(choice, causes, each) for each in of_one])
                for title, of_one in (
                    (gettext_lazy("Most frequent reasons of servers"), causes.of_servers),
                    (gettext_lazy("Other reasons: this app, its settings, or a person"), causes.others),
                )
                if of_one
            ],
            "causes_since": causes.since,
            "domains": domains.by_domain(choice, whole) if may_see_content(request) else None,
        }


def _reason(
    choice: statistics.Choice, found: statistics.FrequentCauses, each: statistics.CauseCount
) -> tuple[Any, str, int, int, str]:
    url = dashboard_now.listed(**{AttemptFilter.parameter_name: AttemptFilter.linked(choice, found, each)})
    return _OUTCOMES.get(each.outcome, each.outcome), words_of(each.cause), each.attempts, each.mails, url


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
