"""The channels besides the log and the signal: a web hook, and mail to ADMINS. Neither uses the queue."""

from __future__ import annotations

import dataclasses
import json
import logging
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage

from email_integration import conf, web
from email_integration.addresses import envelope_address
from email_integration.exceptions import InvalidMail, SecretUnavailable, SecretUnreadable
from email_integration.message.rendering import render
from email_integration.models import Alert, SMTPConfig
from email_integration.routing import relay_of
from email_integration.secrecy import with_secrets
from email_integration.sending import sandbox
from email_integration.smtp import Envelope
from email_integration.smtp.connection_test import ConnectionTestMail, run_connection_test
from email_integration.timezones import aware, in_utc

logger = logging.getLogger(__name__)

#: Timeout in seconds of the web hook, and maximum timeout of the mail server, whatever its configuration says.
_PATIENCE = 10.0


class NotificationFailed(Exception):
    """A channel could not be notified. The message contains no address and no secret."""


def configured() -> tuple[str, ...]:
    """Return the channels that the settings configure."""
    named = {"hook": conf.get("ALERT_WEBHOOK_URL"), "mail": conf.get("ALERT_CONFIGURATION")}
    return tuple(name for name, value in named.items() if value)


@with_secrets
def notify(channel: str, alert: Alert, state: str) -> bool:
    """Notify one channel of an alert, within seconds. Return False if that failed, and log it.

    ``state`` is 'began', 'goes_on' or 'ended'.
    """
    try:
        {"hook": _call, "mail": _write}[channel](alert, state)
    except Exception as error:  # no error may prevent the other channel and the next alert
        why = str(error) if isinstance(error, NotificationFailed) else type(error).__name__
        logger.warning("An alert could not be sent to the %s (%s).", _NAMES[channel], why)
        return False
    return True


_NAMES = {"hook": "web hook", "mail": "admins by mail"}


def admins() -> list[str]:
    """Return the addresses of ADMINS."""
    found: list[Any] = list(settings.ADMINS)
    # Django 6 accepts plain addresses, and (name, address) pairs only until 7.0.
    return [str(admin if isinstance(admin, str) else admin[1]) for admin in found]


def _call(alert: Alert, state: str) -> None:
    """POST the alert as JSON."""
    url = conf.get("ALERT_WEBHOOK_URL")
    if not web.is_url(url):
        raise NotificationFailed("ALERT_WEBHOOK_URL must begin with https://, or with http:// for this machine")
    message = {
        "text": _sentence(alert, state),
        "kind": str(alert.kind),
        "subject": alert.subject,
        "state": state,
        "since": aware(alert.since).isoformat(),
        "ended_at": aware(alert.ended_at).isoformat() if alert.ended_at else None,
    }
    try:
        answer = web.post(url, json.dumps(message).encode(), content_type="application/json", seconds=_PATIENCE)
    except web.Unanswered as error:
        raise NotificationFailed(str(error)) from None
    if not 200 <= answer.status < 300:
        raise NotificationFailed(f"it answered with status {answer.status}")


def _write(alert: Alert, state: str) -> None:
    """Send mail to ADMINS, through a configuration that need not be active."""
    name = conf.get("ALERT_CONFIGURATION")
    try:
        relay = relay_of(SMTPConfig.objects.get(name=name))
    except SMTPConfig.DoesNotExist:
        raise NotificationFailed("no SMTP configuration has the name in ALERT_CONFIGURATION") from None
    except SecretUnavailable:
        raise NotificationFailed("the password of ALERT_CONFIGURATION cannot be read from where it is stored") from None
    except SecretUnreadable:
        raise NotificationFailed(
            "the password of ALERT_CONFIGURATION cannot be decrypted with SMTP_PASSWORD_KEYS"
        ) from None
    to = admins()
    if not to:
        raise NotificationFailed("ADMINS is empty; add an address")
    subject = {"began": "Mail needs attention", "goes_on": "Mail still needs attention", "ended": "Resolved"}
    body = f"{_sentence(alert, state)}\n\nSince {in_utc(alert.since):%Y-%m-%d %H:%M} UTC.\n"
    message = EmailMessage(f"{subject[state]}: {alert.get_kind_display()}", body, relay.from_email, to)
    try:
        rendered = render(message)
        envelope = sandbox.plan_now(rendered.recipients).envelope
        sender = envelope_address(rendered.from_header)
    except (InvalidMail, ImproperlyConfigured) as error:
        raise NotificationFailed(f"{type(error).__name__}: correct ADMINS, the sender or REDIRECT_ALL_TO") from None
    if not envelope:
        raise NotificationFailed("no address of ADMINS is in ALLOWED_RECIPIENTS")
    relay = dataclasses.replace(relay, timeout=min(relay.timeout, _PATIENCE))
    mail = ConnectionTestMail(envelope=Envelope(sender=sender, recipients=envelope), content=rendered.content)
    report = run_connection_test(relay, mail)
    if not report.ok:
        raise NotificationFailed(report.summary)


def _sentence(alert: Alert, state: str) -> str:
    return {"began": "", "goes_on": "Still: ", "ended": "Resolved: "}[state] + alert.text
