"""The words for decisions about mails: what will happen, what was done, and why some mails are not changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.utils.formats import number_format
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext_lazy

from email_integration.delivery.deciding import Why
from email_integration.models import Status

#: What each action is called in the log of the admin, and in the history of a mail.
NAMES = {
    "cancel": gettext_lazy("Cancel"),
    "send_now": gettext_lazy("Send now"),
    "release": gettext_lazy("Release"),
    "discard": gettext_lazy("Discard"),
    "resend": gettext_lazy("Send a copy"),
}
REMARKS = {
    "cancel": gettext_lazy("Cancelled."),
    "send_now": gettext_lazy("Sent now."),
    "release": gettext_lazy("Released."),
    "discard": gettext_lazy("Discarded."),
    "resend": gettext_lazy("A copy was sent."),
}

_QUESTIONS = {
    "cancel": ngettext_lazy("Cancel %(number)s mail?", "Cancel %(number)s mails?", "count"),
    "send_now": ngettext_lazy("Send %(number)s mail now?", "Send %(number)s mails now?", "count"),
    "release": ngettext_lazy("Send %(number)s mail again?", "Send %(number)s mails again?", "count"),
    "discard": ngettext_lazy("Discard %(number)s mail?", "Discard %(number)s mails?", "count"),
    "resend": ngettext_lazy("Send a copy of %(number)s mail?", "Send copies of %(number)s mails?", "count"),
}
_EFFECTS = {
    "cancel": ngettext_lazy(
        "%(number)s mail will be cancelled. It will not be sent.",
        "These %(number)s mails will be cancelled. They will not be sent.",
        "count",
    ),
    "send_now": ngettext_lazy(
        "%(number)s mail will be sent now, without waiting for its next attempt.",
        "These %(number)s mails will be sent now, without waiting for their next attempts.",
        "count",
    ),
    "release": ngettext_lazy(
        "%(number)s mail in doubt will be sent again. A recipient who has it already gets it twice.",
        "These %(number)s mails in doubt will be sent again. A recipient who has one already gets it twice.",
        "count",
    ),
    "discard": ngettext_lazy(
        "%(number)s mail in doubt will be discarded. It counts as failed and is never sent again.",
        "These %(number)s mails in doubt will be discarded. They count as failed and are never sent again.",
        "count",
    ),
    "resend": ngettext_lazy(
        "%(number)s mail will be sent again as a copy to all of its recipients, including those who have it already.",
        "These %(number)s mails will be sent again as copies to all of their recipients, including those who have "
        "them already.",
        "count",
    ),
}
_BUTTONS = {
    "cancel": ngettext_lazy("Yes, cancel %(number)s mail", "Yes, cancel %(number)s mails", "count"),
    "send_now": ngettext_lazy("Yes, send %(number)s mail now", "Yes, send %(number)s mails now", "count"),
    "release": ngettext_lazy("Yes, send %(number)s mail again", "Yes, send %(number)s mails again", "count"),
    "discard": ngettext_lazy("Yes, discard %(number)s mail", "Yes, discard %(number)s mails", "count"),
    "resend": ngettext_lazy("Yes, send %(number)s copy", "Yes, send %(number)s copies", "count"),
}
_DONE = {
    "cancel": ngettext_lazy("%(number)s mail was cancelled.", "%(number)s mails were cancelled.", "count"),
    "send_now": ngettext_lazy("%(number)s mail is sent now.", "%(number)s mails are sent now.", "count"),
    "release": ngettext_lazy("%(number)s mail is sent again.", "%(number)s mails are sent again.", "count"),
    "discard": ngettext_lazy("%(number)s mail was discarded.", "%(number)s mails were discarded.", "count"),
    "resend": ngettext_lazy("A copy of %(number)s mail is sent.", "Copies of %(number)s mails are sent.", "count"),
}
_REQUESTED = ngettext_lazy(
    "%(number)s mail is being sent: it will be cancelled unless the server accepts it first.",
    "%(number)s mails are being sent: they will be cancelled unless the server accepts them first.",
    "count",
)
_DOUBTFUL = ngettext_lazy(
    "%(number)s of them is in doubt: a recipient who has it already gets it twice.",
    "%(number)s of them are in doubt: a recipient who has one already gets it twice.",
    "count",
)
_QUARANTINED = ngettext_lazy(
    "%(number)s of them is quarantined. It will be tried as if for the first time.",
    "%(number)s of them are quarantined. They will be tried as if for the first time.",
    "count",
)
_UNCHANGED = ngettext_lazy(
    "%(number)s mail was not changed: %(why)s.", "%(number)s mails were not changed: %(why)s.", "count"
)
_WILL_NOT_CHANGE = ngettext_lazy(
    "%(number)s mail will not be changed: %(why)s.", "%(number)s mails will not be changed: %(why)s.", "count"
)

_UNREADABLE = ngettext_lazy("the app cannot read it (%(reason)s)", "the app cannot read them (%(reason)s)", "count")
_REASONS: dict[str, Any] = {
    Why.GONE: ngettext_lazy("its content has been deleted", "their content has been deleted", "count"),
    Why.DELETED: ngettext_lazy("it has been deleted meanwhile", "they have been deleted meanwhile", "count"),
    Why.UNMATCHED: ngettext_lazy("it no longer matches the filter", "they no longer match the filter", "count"),
    Why.ERROR: ngettext_lazy("the database refused the change", "the database refused the changes", "count"),
    Status.PREPARED: ngettext_lazy("it is not submitted yet", "they are not submitted yet", "count"),
    Status.QUEUED: ngettext_lazy("it is waiting to be sent", "they are waiting to be sent", "count"),
    Status.DEFERRED: ngettext_lazy("it is waiting to be sent", "they are waiting to be sent", "count"),
    Status.SENDING: ngettext_lazy("it is being sent right now", "they are being sent right now", "count"),
    Status.ACCEPTED: ngettext_lazy("the server has accepted it", "the server has accepted them", "count"),
    Status.FAILED: ngettext_lazy("it has failed", "they have failed", "count"),
    Status.EXPIRED: ngettext_lazy("it has expired", "they have expired", "count"),
    Status.IN_DOUBT: ngettext_lazy("it is in doubt", "they are in doubt", "count"),
    Status.CANCELLED: ngettext_lazy("it has been cancelled", "they have been cancelled", "count"),
    Status.QUARANTINED: ngettext_lazy("it is quarantined", "they are quarantined", "count"),
}
_USE_COPY = ngettext_lazy("Use “Send a copy” to send it again.", "Use “Send a copy” to send them again.", "count")


def _fill(text: Any, count: int, *, number: str = "", **values: Any) -> str:
    return str(text % {"count": count, "number": number or number_format(count), **values})


def number_of(count: int, most: int) -> str:
    """Return a number that was counted up to ``most``."""
    return _("more than %(number)s") % {"number": number_format(most)} if count > most else number_format(count)


def question(action: str, count: int, number: str) -> str:
    """Return the title of the page that asks for confirmation. ``number`` is ``count`` as text."""
    return _fill(_QUESTIONS[action], count, number=number)


def button(action: str, count: int, number: str) -> str:
    """Return the text of the button that confirms."""
    return _fill(_BUTTONS[action], count, number=number)


def effects(action: str, possible: Mapping[str, int]) -> list[str]:
    """Return what will happen. ``possible`` are the numbers of mails that will be changed, by status."""
    count, sending = sum(possible.values()), possible.get(Status.SENDING, 0)
    said = [_fill(_EFFECTS[action], count - sending)] if count > sending else []
    if sending:
        said.append(_fill(_REQUESTED, sending))
    if action == "send_now":
        extra = ((_DOUBTFUL, Status.IN_DOUBT), (_QUARANTINED, Status.QUARANTINED))
        said += [_fill(text, possible[status]) for text, status in extra if possible.get(status)]
    return said


def done(action: str, changed: int, requested: int) -> list[str]:
    """Return what was done to mails that were changed."""
    said = [_fill(_REQUESTED, requested)] if requested else []
    return [*said, _fill(_DONE[action], changed - requested)] if changed > requested else said


def unchanged(action: str, reasons: Mapping[str, int], *, ahead: bool = False) -> list[str]:
    """Return how many mails are not changed for each reason; with ``ahead``, will not be changed."""
    text = _WILL_NOT_CHANGE if ahead else _UNCHANGED
    return [_one_reason(text, action, key, count) for key, count in reasons.items() if count]


def why_not(action: str, key: str) -> str:
    """Return why one mail cannot be changed."""
    return _with_copy(f"{capfirst(_reason(key, 1))}.", action, key, 1)


def _one_reason(text: Any, action: str, key: str, count: int) -> str:
    kind, _colon, more = key.partition(":")
    why = _fill(_UNREADABLE, count, reason=more) if kind == "unreadable" else _reason(more or kind, count)
    if kind == "changed":
        why = _("changed meanwhile, %(why)s") % {"why": why}
    return _with_copy(_fill(text, count, why=why), action, more if kind == "changed" else kind, count)


def _with_copy(said: str, action: str, key: str, count: int) -> str:
    """Add how to send mail again that has ended."""
    ended = key in (Status.FAILED, Status.EXPIRED, Status.CANCELLED)
    return f"{said} {_fill(_USE_COPY, count)}" if ended and action in ("send_now", "release") else said


def _reason(key: str, count: int) -> str:
    return _fill(_REASONS[key], count) if key in _REASONS else key  # a damaged row may have any status
