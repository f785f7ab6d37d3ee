"""The admin actions on selected deliveries."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from email_integration.delivery import manual
from email_integration.exceptions import ContentUnavailable
from email_integration.models import Delivery

from .typing import DeliveryModelAdmin
from .unavailable import why_unavailable


class DecisionActions(DeliveryModelAdmin):
    """Cancel, send now, release, discard, send a copy."""

    actions = ("cancel", "send_now", "release", "discard", "resend")

    def has_decide_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may decide about deliveries: Django's permission to change them."""
        return super().has_change_permission(request)

    @admin.action(description=gettext_lazy("Cancel"), permissions=["decide"])
    def cancel(self, request: HttpRequest, queryset: Any) -> None:
        """Cancel waiting mail, and mail that is being sent unless the server accepts it first."""
        done = self._decide(request, queryset, manual.cancel, _("Cancelled."))
        stopping = min(done, queryset.filter(cancel_requested=True).exclude(batch="").count())
        text = ngettext(
            "%d mail is being sent: it will be cancelled unless the server accepts it first.",
            "%d mails are being sent: they will be cancelled unless the server accepts them first.",
            stopping,
        )
        self._say(request, stopping, text)
        done -= stopping
        self._say(request, done, ngettext("%d mail was cancelled.", "%d mails were cancelled.", done))

    @admin.action(description=gettext_lazy("Send now (deferred, in doubt, quarantined)"), permissions=["decide"])
    def send_now(self, request: HttpRequest, queryset: Any) -> None:
        """Make waiting mail due immediately, and send mail in doubt once more, with the same bytes."""
        done = self._decide(request, queryset, manual.send_now, _("Sent now."))
        self._say(request, done, ngettext("%d mail is sent now.", "%d mails are sent now.", done))

    @admin.action(description=gettext_lazy("Release: send again (in doubt)"), permissions=["decide"])
    def release(self, request: HttpRequest, queryset: Any) -> None:
        """Send mail in doubt again, and no other mail."""
        done = self._decide(request, queryset, manual.release, _("Released."))
        self._say(request, done, ngettext("%d mail is sent again.", "%d mails are sent again.", done))

    @admin.action(description=gettext_lazy("Discard: never send again (in doubt)"), permissions=["decide"])
    def discard(self, request: HttpRequest, queryset: Any) -> None:
        """Never send mail in doubt again."""
        done = self._decide(request, queryset, manual.discard, _("Discarded."))
        self._say(request, done, ngettext("%d mail was discarded.", "%d mails were discarded.", done))

    @admin.action(description=gettext_lazy("Send a copy"), permissions=["decide"])
    def resend(self, request: HttpRequest, queryset: Any) -> None:
        """Send the same bytes to all of the same recipients, as a new mail."""
        done = self._decide(request, queryset, manual.resend, _("A copy was sent."))
        self._say(request, done, ngettext("A copy of %d mail is sent.", "Copies of %d mails are sent.", done))

    def _decide(self, request: HttpRequest, queryset: Any, decision: Callable[[str], object], remark: str) -> int:
        """Apply ``decision`` to each delivery, and return the number of changed deliveries.

        The history of each changed delivery gets the ``remark``. A message gives the number of unchanged deliveries
        and the reason.
        """
        done, left = 0, collections.Counter[str]()
        for pk in list(queryset.order_by("pk").values_list("pk", flat=True)):
            try:
                decided, why = bool(decision(pk)), ""
            except (ContentUnavailable, Delivery.DoesNotExist) as error:
                decided, why = False, why_unavailable(error)
            now = Delivery.objects.only("status", "batch").filter(pk=pk).first()
            if decided:
                done += 1
                if now is not None:
                    self.log_change(request, now, remark)
            else:
                left[why or _state(now)] += 1
        for why, count in left.items():
            text = ngettext(
                "%(count)d mail stayed as it was: %(why)s.", "%(count)d mails stayed as they were: %(why)s.", count
            )
            self.message_user(request, text % {"count": count, "why": why}, messages.WARNING)
        return done

    def _say(self, request: HttpRequest, done: int, text: str) -> None:
        if done:
            self.message_user(request, text % done, messages.SUCCESS)


def _state(delivery: Delivery | None) -> str:
    return delivery.get_current_status_display() if delivery is not None else _("deleted meanwhile")
