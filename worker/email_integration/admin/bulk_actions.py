"""Carry out a confirmed action on many mails: at once, or in steps of a page that shows how far it is."""

from __future__ import annotations

import copy
import functools
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from django.contrib import messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core import signing
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import F
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.translation import gettext as _

from email_integration.delivery import deciding
from email_integration.ledger import conflicts, rows
from email_integration.models import BulkAction, Delivery

from . import decision_words
from .refusing import require
from .selections import COUNTED, SelectedMail, SelectionQueries

#: Seconds for which a page can be confirmed. Its action is kept for longer (``delivery.retention``).
_CONFIRM = 24 * 60 * 60

#: Seconds that one request carries out an action for.
_STEP = 2.0

#: Mails of one transaction.
BATCH = 50

#: Unfinished actions that the list names.
_NAMED = 5


class BulkActionViews(SelectionQueries):
    """The view that a confirmation posts to, and the page of an action that takes longer."""

    confirmation_salt = "email_integration.bulk_action"

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        name = "email_integration_delivery"
        return [
            path("actions/confirm/", view(self.confirm_view), name=f"{name}_confirm"),
            path("actions/<uuid:action_id>/", view(self.bulk_action_view), name=f"{name}_bulk_action"),
            *super().get_urls(),
        ]

    def has_decide_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may decide about deliveries: Django's permission to change them."""
        return super().has_change_permission(request)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Also name the actions that have not ended."""
        if request.method == "GET" and self.has_decide_permission(request):
            for bulk in BulkAction.objects.filter(ended_at=None).order_by("created_at").select_related("by")[:_NAMED]:
                text = _("The action “%(action)s” of %(user)s has not ended.")
                values = {"action": decision_words.NAMES[bulk.action], "user": bulk.by or "–"}
                link = format_html('{} <a href="{}">{}</a>', text % values, _page_of(bulk), _("Show"))
                self.message_user(request, link, messages.WARNING)
        response: HttpResponse = super().changelist_view(request, extra_context)
        return response

    def confirm_view(self, request: HttpRequest) -> HttpResponse:
        """Begin the action that the user has confirmed. The same page begins it only once."""
        self._require(request, method="POST")
        try:
            asked = signing.loads(request.POST.get("key", ""), salt=self.confirmation_salt, max_age=_CONFIRM)
        except signing.BadSignature:
            self.message_user(request, _("This page is too old. Select the mails again."), messages.ERROR)
            return HttpResponseRedirect(reverse("admin:email_integration_delivery_changelist"))
        if asked["by"] != str(request.user.pk):
            raise PermissionDenied
        return self.begin(request, asked)

    def begin(self, request: HttpRequest, asked: Mapping[str, Any]) -> HttpResponse:
        """Begin an action as ``asked`` says, and go back if it ends at once; otherwise go to its page."""
        values = {name: asked[name] for name in ("action", "selection", "shown")}
        values["by_id"] = request.user.pk
        with transaction.atomic(using=rows.database()):  # another window sees the action only with its entry in the log
            bulk, is_new = BulkAction.objects.get_or_create(pk=uuid.UUID(asked["id"]), defaults=values)
            if is_new:
                self._log(request, bulk)
        if not is_new:
            return HttpResponseRedirect(_page_of(bulk))
        bulk = self._step(request, bulk)
        if bulk.ended_at is None:
            return HttpResponseRedirect(_page_of(bulk))
        self._say(request, bulk)
        return HttpResponseRedirect(asked["back"])

    def bulk_action_view(self, request: HttpRequest, action_id: uuid.UUID) -> HttpResponse:
        """Show how far an action is; carry out the next step of it, or stop it."""
        self._require(request)
        bulk = BulkAction.objects.select_related("by").filter(pk=action_id).first()
        if bulk is None:
            raise Http404
        is_own = bulk.by_id == request.user.pk
        if request.method == "POST":
            if "stop" in request.POST:
                self._end(request, bulk, is_stopped=True)
            elif not is_own:  # the filters find what their user may see
                raise PermissionDenied
            else:
                self._step(request, bulk)
            return HttpResponseRedirect(_page_of(bulk))
        known = bulk.shown <= COUNTED
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": decision_words.NAMES[bulk.action],
            "bulk": bulk,
            "is_own": is_own,
            "handled": decision_words.number_of(bulk.handled, max(bulk.handled, COUNTED)),
            "total": decision_words.number_of(bulk.shown, COUNTED),
            "is_known": known,
            "done": _done(bulk),
            "unchanged": decision_words.unchanged(bulk.action, bulk.unchanged),
        }
        return TemplateResponse(request, "email_integration/bulk_action.html", context)

    def _require(self, request: HttpRequest, *, method: str = "") -> None:
        if method and request.method != method:
            raise PermissionDenied
        require(request, "email_integration.change_delivery")

    # -- steps --------------------------------------------------------------------------------------------------

    def _step(self, request: HttpRequest, bulk: BulkAction) -> BulkAction:
        """Carry out batches for a while. Return the action as it then is."""
        until = time.monotonic() + _STEP
        while bulk.ended_at is None:
            mails = self.next_mails(request, bulk.selection, bulk.position)
            if not mails:
                return self._end(request, bulk)
            while mails:
                handled = conflicts.repeated(functools.partial(self._batch, request, bulk, mails[:BATCH]))
                version, bulk = bulk.version, BulkAction.objects.get(pk=bulk.pk)
                is_overtaken = bulk.version != version + 1  # another request has gone on with it, or stopped it
                if not handled or is_overtaken or time.monotonic() > until:
                    return bulk
                mails = mails[handled:]
        return bulk

    def _batch(self, request: HttpRequest, bulk: BulkAction, mails: Sequence[SelectedMail]) -> int:
        """Decide about some mails, in one transaction. Return how many; 0 if another request was faster."""
        with transaction.atomic(using=rows.database()):
            mine = BulkAction.objects.filter(pk=bulk.pk, version=bulk.version, ended_at=None)
            if not mine.update(version=F("version") + 1):
                return 0
            done = deciding.decide(bulk.action, [(one.pk, one.status) for one in mails], key=str(bulk.pk))
            after = copy.copy(bulk)
            after.version += 1
            after.position = mails[done.handled - 1].position
            after.changed += len(done.changed)
            after.requested += done.requested
            after.unchanged = _added(bulk.unchanged, done.unchanged)
            after.save(update_fields=["position", "changed", "requested", "unchanged"])
            changed = list(Delivery.objects.only("status").filter(pk__in=done.changed))
            if changed:
                remark = str(decision_words.REMARKS[bulk.action])
                LogEntry.objects.log_actions(_user_id(request), changed, CHANGE, remark)
            self._log(request, after)
        return done.handled

    def _end(self, request: HttpRequest, bulk: BulkAction, *, is_stopped: bool = False) -> BulkAction:
        """End an action, unless another request has ended it. Return it as it then is."""

        def end() -> None:
            with transaction.atomic(using=rows.database()):
                mine = BulkAction.objects.filter(pk=bulk.pk, ended_at=None)
                # Waits for a batch that is being carried out, so that its numbers are in the log.
                if not mine.update(ended_at=timezone.now(), is_stopped=is_stopped, version=F("version") + 1):
                    return
                ended = BulkAction.objects.get(pk=bulk.pk)
                missing = ended.shown - ended.handled
                if missing > 0 and ended.shown <= COUNTED and not is_stopped:
                    ended.unchanged = _added(ended.unchanged, {deciding.Why.UNMATCHED: missing})
                self._log(request, ended)
                ended.selection = {}  # a query may contain an address
                ended.save(update_fields=["selection", "unchanged"])

        conflicts.repeated(end)
        return BulkAction.objects.get(pk=bulk.pk)

    # -- reports ------------------------------------------------------------------------------------------------

    def _log(self, request: HttpRequest, bulk: BulkAction) -> None:
        """Write the action's one entry in the log of the admin, or bring its numbers up to date."""
        said = [_selected(bulk), *_done(bulk), *decision_words.unchanged(bulk.action, bulk.unchanged)]
        if bulk.is_stopped:
            said.append(_("Stopped by %(user)s.") % {"user": request.user})
        text = " ".join(said)
        if bulk.log_entry is not None and LogEntry.objects.filter(pk=bulk.log_entry).update(change_message=text):
            return
        name = decision_words.NAMES[bulk.action]
        entry = LogEntry.objects.create(
            user_id=_user_id(request),
            content_type=ContentType.objects.get_for_model(Delivery),
            object_repr=f"{name} ({decision_words.number_of(bulk.shown, COUNTED)})",
            action_flag=CHANGE,
            change_message=text,
        )
        bulk.log_entry = entry.pk
        BulkAction.objects.filter(pk=bulk.pk).update(log_entry=entry.pk)

    def _say(self, request: HttpRequest, bulk: BulkAction) -> None:
        for text in decision_words.unchanged(bulk.action, bulk.unchanged):
            self.message_user(request, text, messages.WARNING)
        for text in _done(bulk):
            self.message_user(request, text, messages.SUCCESS)


def _user_id(request: HttpRequest) -> Any:
    return request.user.pk  # the permission was checked: it is not an anonymous user


def _done(bulk: BulkAction) -> list[str]:
    return decision_words.done(bulk.action, bulk.changed, bulk.requested)


def _selected(bulk: BulkAction) -> str:
    """Return what was selected, for the log: without the words of a search, which may be an address."""
    if "query" not in bulk.selection:
        return _("Selected: %(number)s.") % {"number": decision_words.number_of(bulk.shown, COUNTED)}
    asked = [(name, "…" if name == "q" else value) for name, value in parse_qsl(bulk.selection["query"])]
    values = {
        "filter": "&".join(f"{name}={value}" for name, value in asked) or "–",
        "until": bulk.selection["until"],
        "number": decision_words.number_of(bulk.shown, COUNTED),
    }
    return _("All that match the filter: %(filter)s, submitted until %(until)s: %(number)s.") % values


def _added(before: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    return {
        key: before.get(key, 0) + more.get(key, 0) for key in (*before, *(key for key in more if key not in before))
    }


def _page_of(bulk: BulkAction) -> str:
    return reverse("admin:email_integration_delivery_bulk_action", args=[bulk.pk])
