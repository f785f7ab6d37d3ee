"""The admin actions on selected deliveries. Each one first shows a page that asks for confirmation."""

from __future__ import annotations

import collections
import uuid
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import quote
from django.core import signing
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from email_integration.delivery import deciding
from email_integration.ledger import rows
from email_integration.models import Delivery, Status

from . import decision_words
from .bulk_actions import BulkActionViews
from .contents import may_see_content
from .filters import shown_id
from .selections import COUNTED, Selection, first_mails

#: Number of mails that the page shows.
_SHOWN = 10

#: Statuses in which a mail's own page sends it now without asking: it waits, and was not handed to a server.
_HARMLESS = (Status.QUEUED, Status.DEFERRED)


class DecisionActions(BulkActionViews):
    """Cancel, send now, release, discard, send a copy."""

    actions = ("cancel", "send_now", "release", "discard", "resend")

    @admin.action(description=gettext_lazy("Cancel"), permissions=["decide"])
    def cancel(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        """Cancel waiting mail, and mail that is being sent unless the server accepts it first."""
        return self._ask(request, "cancel", queryset)

    @admin.action(description=gettext_lazy("Send now (deferred, in doubt, quarantined)"), permissions=["decide"])
    def send_now(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        """Make waiting mail due immediately, and send mail in doubt once more, with the same bytes."""
        return self._ask(request, "send_now", queryset)

    @admin.action(description=gettext_lazy("Release: send again (in doubt)"), permissions=["decide"])
    def release(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        """Send mail in doubt again, and no other mail."""
        return self._ask(request, "release", queryset)

    @admin.action(description=gettext_lazy("Discard: never send again (in doubt)"), permissions=["decide"])
    def discard(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        """Never send mail in doubt again."""
        return self._ask(request, "discard", queryset)

    @admin.action(description=gettext_lazy("Send a copy"), permissions=["decide"])
    def resend(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        """Send the same bytes to all of the same recipients, as a new mail."""
        return self._ask(request, "resend", queryset)

    def _ask(self, request: HttpRequest, action: str, queryset: Any) -> HttpResponse | None:
        """Show what the action will do. What is then confirmed is what this page shows."""
        selection = self.select(request, queryset)
        if not selection.mails:
            self.message_user(request, _("The selected mails no longer match the filter."), messages.WARNING)
            return None
        match: Any = request.resolver_match
        own_page = match is not None and "object_id" in match.kwargs  # the page of one mail, not the list
        back = reverse("admin:email_integration_delivery_changelist")
        if own_page:
            back = reverse("admin:email_integration_delivery_change", args=[quote(selection.mails[0][0])])
        elif request.GET:
            back = f"{back}?{request.GET.urlencode()}"
        asked = {
            "id": str(uuid.uuid4()),
            "action": action,
            "by": str(request.user.pk),
            "selection": selection.stored,
            "shown": len(selection.mails),
            "back": back,
        }
        if own_page and action == "send_now" and selection.mails[0][1] in _HARMLESS:
            return self.begin(request, asked)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "back": back,
            "key": signing.dumps(asked, salt=self.confirmation_salt, compress=True),
            **_described(request, action, selection),
        }
        return TemplateResponse(request, "email_integration/confirm_decision.html", context)


def _described(request: HttpRequest, action: str, selection: Selection) -> dict[str, Any]:
    """Return what the page shows: the numbers, the effects, the reasons of the others, and the first mails."""
    count = len(selection.mails)
    counted = selection.mails[:COUNTED]
    possible, reasons = collections.Counter[str](), collections.Counter[str]()
    for _pk, status, has_content in counted:
        why = deciding.why_not(action, status, has_content=has_content)
        if why:
            reasons[why] += 1
        else:
            possible[status] += 1
    selected = set(request.POST.getlist("_selected_action"))
    if "mails" in selection.stored and request.POST.get("select_across") != "1" and len(selected) > count:
        reasons[deciding.Why.UNMATCHED] += len(selected) - count
    number, total = decision_words.number_of(count, COUNTED), sum(possible.values())
    confirmed = number if count > COUNTED else decision_words.number_of(total, COUNTED)
    return {
        "title": decision_words.question(action, count, number),
        "is_more": count > COUNTED,
        "number": number,
        "counted": decision_words.number_of(COUNTED, COUNTED),
        "effects": decision_words.effects(action, possible),
        "reasons": decision_words.unchanged(action, reasons, ahead=True),
        "button": decision_words.button(action, count if count > COUNTED else total, confirmed) if total else "",
        "may_see": may_see_content(request),
        "mails": [_Shown(action, one) for one in first_mails(selection, _SHOWN)],
        "others": decision_words.number_of(count - _SHOWN, COUNTED - _SHOWN) if count > _SHOWN else "",
    }


class _Shown:
    """One of the first mails, as the page shows it."""

    def __init__(self, action: str, delivery: Delivery) -> None:
        self.delivery = delivery
        self.id = quote(delivery.pk)
        self.short_id = shown_id(delivery.pk)
        self.is_changed = not deciding.why_not(action, delivery.current_status, has_content=delivery.has_content)

    @cached_property
    def addresses(self) -> list[str]:
        """The recipients' addresses; for users who may see them."""
        if not rows.is_readable(self.delivery):
            return []
        return [item["address"].encode("utf-8", "replace").decode() for item in self.delivery.recipients]
