"""The routing status, in one or two sentences: the server in use, the reason, and whether it works."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.utils import timezone
from django.utils.formats import number_format
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from email_integration import conf, routing
from email_integration.exceptions import SecretUnavailable
from email_integration.models import Authentication, Delivery, SendingPause, SMTPConfig, Status
from email_integration.models.login import current_token
from email_integration.smtp import Relay
from email_integration.timezones import exactly

from .isolation import isolated_text
from .next_tries import open_breaker

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise as Text


@dataclass(frozen=True, kw_only=True)
class Notice:
    """A sentence for the top of a page. ``level`` is a class of Django's message list.

    ``at_fault`` is True if the sentence is about a server that can be retried now.
    """

    level: str
    text: Text
    at_fault: bool = False


#: The largest number of mails that is counted: all mail may wait for the server.
_COUNTED = 1_000


def route() -> Notice:
    """Return a notice of the server that mail goes to now, without regard to a pause."""
    active = list(SMTPConfig.objects.filter(is_active=True)[:2])
    if len(active) > 1:
        return Notice(level="error", text=_("Mail is being held: several configurations are active."))
    config = active[0] if active else None
    if config is None:
        fallback = routing.settings_relay()
        if isinstance(fallback, Relay):
            text = format_lazy(
                _("Mail goes through {host}:{port} now, by the settings of this project: no configuration is active."),
                host=fallback.host,
                port=fallback.port,
            )
            return _at_fault(fallback, text) or Notice(level="warning", text=text)
        text = _("Mail is being held: no configuration is active, and the settings name no server.")
        return Notice(level="error", text=text)
    if not config.is_readable:
        text = _("Mail is being held: the password of the active configuration, “{name}”, is unreadable.")
        return Notice(level="error", text=format_lazy(text, name=config.name))
    if config.defect:
        text = _("Mail is being held: the active configuration, “{name}”, cannot be used. {defect}")
        return Notice(level="error", text=format_lazy(text, name=config.name, defect=config.defect))
    try:
        relay = routing.relay_of(config)
    except SecretUnavailable as error:
        text = _("Mail is being held: the active configuration, “{name}”, cannot be used. {defect}")
        return Notice(level="error", text=format_lazy(text, name=config.name, defect=str(error)))
    text = _("Mail goes through “{name}” ({host}:{port}) now: it is the active configuration.")
    text = format_lazy(text, name=config.name, host=config.host, port=config.port)
    return _at_fault(relay, text) or Notice(level="info", text=text)


def token() -> Iterable[Notice]:
    """Yield the notices about the active configuration's token: its validity, and why there is no newer one."""
    config = SMTPConfig.objects.filter(is_active=True, authentication=Authentication.OAUTH).first()
    row = current_token(config) if config is not None else None
    if row is None:
        return
    if row.expires_at is not None and row.expires_at > timezone.now():
        yield Notice(level="info", text=_of_token(_("valid until %(when)s"), when=row.expires_at))
    if row.failed_at is not None:
        text = _("none could be fetched %(when)s: %(why)s")
        yield Notice(
            level="warning", text=_of_token(text, when=row.failed_at, why=isolated_text(row.error.rstrip(".")))
        )


def _of_token(text: Text, *, when: dt.datetime, why: str = "") -> Text:
    return format_lazy("{}: {}.", _("OAuth token"), text % {"when": exactly(when), "why": why})


def _at_fault(relay: Relay, through: Text) -> Notice | None:
    """Return ``through`` and the known fault of ``relay``, or None."""
    tripped = open_breaker(relay)
    if tripped is None:
        return None
    waiting = Delivery.objects.filter(status=Status.DEFERRED, waits_for_relay=True)[: _COUNTED + 1].count()
    count = format_lazy(_("more than {count}"), count=number_format(_COUNTED)) if waiting > _COUNTED else str(waiting)
    soon = tripped.probe_at <= timezone.now()
    next_try = _("with the next mail") if soon else exactly(tripped.probe_at)
    fault = format_lazy(
        _("The server is not working: {reason}. Down since {since}; next try: {next_try}; mails held for it: {count}."),
        since=exactly(tripped.opened_at),
        reason=isolated_text(tripped.reason.rstrip(".")),
        count=count,
        next_try=next_try,
    )
    return Notice(level="error", text=format_lazy("{} {}", through, fault), at_fault=True)


def without_any() -> Text:
    """Return which server sends mail if no configuration is active."""
    fallback = routing.settings_relay()
    if isinstance(fallback, Relay):
        text = _("With no configuration active, mail goes by the settings of this project: {host}:{port}.")
        return format_lazy(text, host=fallback.host, port=fallback.port)
    return _("With no configuration active, mail is held: the settings of this project name no server.")


def blockers() -> Iterable[Notice]:
    """Yield notices about the blockers, for every page of the app."""
    pause = SendingPause.current()
    if pause is not None:
        yield Notice(level="warning", text=_paused(pause))
    if conf.get("REDIRECT_ALL_TO"):
        text = _("All mail goes to {addresses} instead of its recipients (REDIRECT_ALL_TO).")
        yield Notice(level="warning", text=format_lazy(text, addresses=_listed("REDIRECT_ALL_TO")))
    if conf.get("ALLOWED_RECIPIENTS"):
        text = _("Mail is sent only to {addresses} (ALLOWED_RECIPIENTS).")
        yield Notice(level="warning", text=format_lazy(text, addresses=_listed("ALLOWED_RECIPIENTS")))


def _listed(key: str) -> str:
    given = conf.get(key)
    return ", ".join(map(str, given)) if isinstance(given, list | tuple | set | frozenset) else str(given)


def _paused(pause: SendingPause) -> Text:
    if conf.get("EMAIL_PAUSED"):
        return _("Sending is paused by the setting EMAIL_PAUSED. New mail is accepted and held.")
    text = _("Sending is paused. New mail is accepted and held.")
    if pause.reason:
        text = format_lazy(
            "{} {}", text, format_lazy(_("Reason: {reason}."), reason=isolated_text(pause.reason.rstrip(".")))
        )
    return format_lazy("{} {}", text, format_lazy(_("Since {since}."), since=exactly(pause.since)))
