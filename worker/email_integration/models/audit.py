"""The audit log of configurations, based on django-simple-history.

The library records ``save()`` and ``delete()``. This module adds the changes that it does not see
(``QuerySet.update()``, a test, a view of the page), names each event in one word, and records that a password changed
without storing it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _
from simple_history.models import HistoricalRecords
from simple_history.utils import get_history_manager_for_model

from .server import ServerSettings

#: The reason recorded for a refresh token from a consent.
CONSENT = "consent of the mailbox's owner"


class Event(models.TextChoices):
    """An event of a configuration."""

    CREATED = "created", _("created")
    CHANGED = "changed", _("changed")
    ACTIVATED = "activated", _("activated")
    DEACTIVATED = "deactivated", _("deactivated")
    TESTED = "tested", _("tested")
    VIEWED = "viewed", _("viewed")
    DELETED = "deleted", _("deleted")


class AuditEntry(models.Model):
    """The columns of every history row besides the values of the configuration."""

    event = models.CharField(_("event"), max_length=12, choices=Event)
    password_changed = models.BooleanField(_("password changed"), default=False)

    class Meta:
        abstract = True


class History(HistoricalRecords):  # type: ignore[misc]  # the library is untyped
    """Records whose table is the same in each project, whatever the project's SIMPLE_HISTORY_* settings are.

    This app's migrations make the table. With another column type or index, a migration would be missing, and the
    column might not accept the values.
    """

    def get_extra_fields(
        self, model: type[models.Model], fields: Mapping[str, models.Field[Any, Any]]
    ) -> dict[str, Any]:
        """Return the library's columns with its default settings."""
        return {
            **super().get_extra_fields(model, fields),
            "history_id": models.AutoField(primary_key=True),  # not SIMPLE_HISTORY_HISTORY_ID_USE_UUID
            "history_date": models.DateTimeField(db_index=True),  # not SIMPLE_HISTORY_DATE_INDEX
            # not SIMPLE_HISTORY_HISTORY_CHANGE_REASON_USE_TEXT_FIELD
            "history_change_reason": models.CharField(max_length=100, null=True),  # the library's own
        }

    def get_meta_options(self, model: type[models.Model]) -> dict[str, Any]:
        """Return the library's options without indexes."""
        return {name: value for name, value in super().get_meta_options(model).items() if name != "indexes"}

    def create_history_model(self, model: type[models.Model], inherited: bool) -> type[models.Model]:
        """Return the model of the records with its correct module; the library sets the app's package instead."""
        made: type[models.Model] = super().create_history_model(model, inherited)
        made.__module__ = model.__module__
        return made


def event_of(before: ServerSettings | None, after: ServerSettings) -> Event:
    """Return the event for the change from ``before`` (None: there was no row) to ``after``."""
    if before is None:
        return Event.CREATED
    if before.is_active != after.is_active:
        return Event.ACTIVATED if after.is_active else Event.DEACTIVATED
    return Event.CHANGED


def describe(instance: Any, history_instance: Any, **kwargs: Any) -> None:
    """Set the columns of ``AuditEntry``; receiver of simple-history's ``pre_create_historical_record``."""
    if history_instance.history_type == "-":
        history_instance.event = Event.DELETED
    else:
        history_instance.event, history_instance.password_changed = instance.audit_change


def note(config: ServerSettings, event: Event, *, user: Any = None, reason: str = "") -> None:
    """Record an event without a change: a test, or a view of the page."""
    _record([config], event=event, user=user, reason=reason)


def note_updated(before: Mapping[int, ServerSettings], after: Iterable[ServerSettings]) -> None:
    """Record the changes of ``QuerySet.update()`` or ``bulk_create()``; ``before`` is keyed by primary key."""
    for config in after:
        old = before.get(config.pk)
        changed = old is None or config.sealed_secrets != old.sealed_secrets
        _record([config], event=event_of(old, config), created=old is None, password_changed=changed)


def _record(
    configs: list[ServerSettings],
    *,
    event: Event,
    user: Any = None,
    reason: str = "",
    created: bool = False,
    password_changed: bool = False,
) -> None:
    history = get_history_manager_for_model(type(configs[0]))
    history.bulk_history_create(
        configs,
        update=not created,
        default_user=user,
        default_change_reason=reason[:100],
        custom_historical_attrs={"event": event, "password_changed": password_changed},
    )
