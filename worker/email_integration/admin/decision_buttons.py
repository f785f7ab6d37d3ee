"""The decisions about one mail, as buttons on its page, with the reasons why some are not possible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from email_integration.delivery import deciding
from email_integration.ledger import rows
from email_integration.models import Delivery, Status

from . import decision_words
from .refusing import require
from .typing import DeliveryModelAdmin

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise as Text


@dataclass(frozen=True, kw_only=True)
class Button:
    """A decision: the name of the admin action, a label, and what it does, or why it is not possible (``why_not``)."""

    name: str
    label: Text
    effect: Text
    why_not: str


#: The label of each decision, and its effect on this mail.
_WORDS: dict[str, tuple[Text, Text]] = {
    "send_now": (gettext_lazy("Send now"), gettext_lazy("Makes it due now.")),
    "release": (
        gettext_lazy("Send again"),
        gettext_lazy("Sends the same bytes again. A recipient may receive it twice."),
    ),
    "discard": (gettext_lazy("Discard"), gettext_lazy("Never sends it again. It then counts as failed.")),
    "cancel": (gettext_lazy("Cancel"), gettext_lazy("Does not send it any more. It then counts as cancelled.")),
    "resend": (
        gettext_lazy("Send a copy"),
        gettext_lazy("Sends the same bytes to all of its recipients again, as a new mail."),
    ),
}


class DecisionButtons(DeliveryModelAdmin):
    """The buttons, and the view that they post to. It runs the admin actions of ``DecisionActions``."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.decide_view)
        return [
            path("<path:object_id>/decide/", view, name="email_integration_delivery_decide"),
            *super().get_urls(),
        ]

    def decide_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Run one admin action for this mail, and return to its page; or show the page that the action returns.

        ``get_actions`` contains only the actions that the user may run.
        """
        if request.method != "POST":
            raise PermissionDenied
        for permission in ("email_integration.view_delivery", "email_integration.change_delivery"):
            require(request, permission)
        action: Any = self.get_actions(request).get(request.POST.get("action", ""))
        if action is None or request.POST["action"] not in _WORDS:
            raise PermissionDenied
        delivery = rows.load(unquote(object_id))
        if delivery is None:
            raise Http404
        response = action[0](self, request, Delivery.objects.filter(pk=delivery.pk))
        if isinstance(response, HttpResponseBase):
            return response
        return HttpResponseRedirect(reverse("admin:email_integration_delivery_change", args=[quote(delivery.pk)]))

    def buttons(self, request: HttpRequest, delivery: Delivery) -> list[Button]:
        """Return the decisions that the user may make, those that are possible now first."""
        allowed = self.get_actions(request)
        found = [
            Button(name=name, label=label, effect=effect, why_not=_why_not(name, delivery))
            for name, (label, effect) in _WORDS.items()
            if name in allowed
        ]
        return sorted(found, key=lambda button: bool(button.why_not))


def _why_not(name: str, delivery: Delivery) -> str:
    """Return why the decision is not possible now; '' if it is. The decision itself has the last word."""
    if name == "send_now" and delivery.current_status == Status.IN_DOUBT:
        return _("It is in doubt: use “Send again”.")
    why = deciding.why_not(name, delivery.current_status, has_content=delivery.has_content)
    if why:
        return decision_words.why_not(name, why)
    if name in ("cancel", "discard") or rows.is_readable(delivery):
        return ""
    return _("Its recipients cannot be read.")


def explanation(delivery: Delivery) -> str:
    """Return what a person has to decide about the mail, and how to find out; '' if nothing."""
    if delivery.batch:
        return ""
    if delivery.status == Status.IN_DOUBT:
        return _(
            "The connection broke after the mail was handed over, so it may or may not have arrived. Ask a recipient, "
            "or search the server's log for the Message-ID. If it arrived, discard it; if it did not, send it again."
        )
    if delivery.status == Status.QUARANTINED:
        return _(
            "The mail was set aside so that it does no more harm, and is not sent by itself. Correct the cause below, "
            "or report it as a fault of this app. Then send it now."
        )
    return ""
