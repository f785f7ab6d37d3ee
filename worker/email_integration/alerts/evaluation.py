"""Compare the current problems with the active alerts, and notify people of changes.

Every change is a conditional write, so that only one of several concurrent evaluations notifies.
"""

from __future__ import annotations

import datetime as dt
import logging
from typing import Any

from django.utils import timezone

from email_integration import conf, signals
from email_integration.models import Alert
from email_integration.outcomes import schedule

from . import channels
from .conditions import Condition, anything_to_evaluate, firing_conditions, known_alerts

logger = logging.getLogger(__name__)

#: Notification lease, in seconds: no other process notifies meanwhile. It is longer than a notification takes.
_NOTIFICATION_LEASE = 60.0

#: Seconds until a failed notification is tried again, doubled each time; and the number of tries.
_RETRY_DELAY = 30.0
_TRIES = 8

#: Log levels of the beginning. Each end is a warning, so that readers of warnings see it too.
_LEVELS = {
    Alert.Kind.LOGIN_REFUSED: logging.ERROR,
    Alert.Kind.RELAY_AT_FAULT: logging.ERROR,
    Alert.Kind.QUEUE_LATE: logging.ERROR,
}


def evaluate() -> int:
    """Evaluate all conditions once, and return how many alerts are active. Raises ``DatabaseError``.

    Alerts of a kind that this version does not know stay as they are.
    """
    if not anything_to_evaluate():
        return 0
    now = timezone.now()
    known = {(alert.kind, alert.subject): alert for alert in known_alerts()}
    # Read after the rows: a condition that is missing now and was known before is over, even if others found it since.
    wrong = {(one.kind.value, one.subject): one for one in firing_conditions()}
    for key, condition in wrong.items():
        alert = known.get(key)
        if alert is None:
            _begin(condition, now)
        elif alert.ended_at is not None:
            _begin_again(alert, condition, now)
    for key, alert in known.items():
        if key not in wrong and alert.ended_at is None:
            _end(alert, now)
    for alert in known_alerts().filter(notify_at__lte=now):
        _notify(alert, wrong.get((alert.kind, alert.subject)), now)
    return len(wrong)


def _begin(condition: Condition, now: dt.datetime) -> None:
    alert, is_new = Alert.objects.get_or_create(
        kind=condition.kind,
        subject=condition.subject,
        defaults={"text": condition.text, "since": now, **_to_notify(now)},
    )
    if is_new:
        _emit(alert, "began", signals.alert_began)


def _begin_again(alert: Alert, condition: Condition, now: dt.datetime) -> None:
    if _change(alert, {"ended_at": alert.ended_at}, text=condition.text, since=now, ended_at=None, **_to_notify(now)):
        _emit(alert, "began", signals.alert_began)


def _end(alert: Alert, now: dt.datetime) -> None:
    if _change(alert, {"ended_at": None, "since": alert.since}, ended_at=now, **_to_notify(now)):
        _emit(alert, "ended", signals.alert_ended)


def _to_notify(now: dt.datetime) -> dict[str, Any]:
    """Return the values of a row whose notification is due on all channels."""
    return {"notify_at": now, "pending_channels": ",".join(channels.configured()), "failures": 0}


def _notify(alert: Alert, condition: Condition | None, now: dt.datetime) -> None:
    """Notify the pending channels, unless another process does.

    Every ALERT_REPEAT seconds, notify all of them again.
    """
    claimed = timezone.now() + dt.timedelta(seconds=_NOTIFICATION_LEASE)
    is_repeat = alert.ended_at is None and not alert.pending_channels and alert.notified_at is not None
    pending = list(channels.configured()) if is_repeat else [name for name in alert.pending_channels.split(",") if name]
    text = condition.text if condition and alert.ended_at is None else alert.text
    claim = {"notify_at": claimed, "pending_channels": ",".join(pending), "text": text}
    if not _change(alert, {"notify_at": alert.notify_at}, **claim):
        return
    if is_repeat:
        _log(alert, "goes_on")
    state = "ended" if alert.ended_at else "goes_on" if is_repeat else "began"
    failed = [name for name in pending if not channels.notify(name, alert, state)]
    failures = alert.failures + 1 if failed else 0
    if failed and failures < _TRIES:
        notify_at: dt.datetime | None = now + schedule.seconds(schedule.doubled(_RETRY_DELAY, failures - 1))
    elif alert.ended_at is not None:
        Alert.objects.filter(pk=alert.pk, notify_at=claimed).delete()
        return
    else:
        repeat = conf.get("ALERT_REPEAT")
        notify_at, failed, failures = (now + dt.timedelta(seconds=repeat) if repeat else None), [], 0
    done = {"notified_at": now, "pending_channels": ",".join(failed), "failures": failures}
    _change(alert, {"notify_at": claimed}, notify_at=notify_at, **done)


def _change(alert: Alert, unless_changed: dict[str, Any], **values: Any) -> bool:
    """Change the row and this instance. Return False when another process has changed the row meanwhile."""
    changed = bool(Alert.objects.filter(pk=alert.pk, **unless_changed).update(**values))
    if changed:
        for name, value in values.items():
            setattr(alert, name, value)
    return changed


def _emit(alert: Alert, state: str, signal: Any) -> None:
    _log(alert, state)
    signal.send_robust(sender=Alert, alert=alert)  # Django logs the errors of receivers


def _log(alert: Alert, state: str) -> None:
    words = {"began": "Alert", "goes_on": "Alert continues", "ended": "Alert resolved"}[state]
    level = logging.WARNING if state == "ended" else _LEVELS.get(Alert.Kind(alert.kind), logging.WARNING)
    extra = {"alert": str(alert.kind), "state": state, "reason": alert.text}
    logger.log(level, "%s: %s", words, alert.text, extra=extra)
