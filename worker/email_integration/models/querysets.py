"""Reading and writing configurations many at a time, told to all workers and recorded as ``save()`` is."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from email_integration import signals

from .audit import note_updated

if TYPE_CHECKING:
    from .config import SMTPConfig

logger = logging.getLogger(__name__)

NO_ACTIVE_CONFIG = "No active SMTP Configuration found in database. Falling back to Django settings."


class SMTPConfigQuerySet(models.QuerySet["SMTPConfig"]):
    """Writes that bypass ``save()`` are told to all workers and recorded too."""

    def get_active_config(self) -> SMTPConfig | None:
        """The active configuration; None, with a warning in the log, when there is none.

        Raises ``SMTPConfig.MultipleObjectsReturned`` where somebody has got round the database's constraint.
        """
        try:
            return self.get(is_active=True)
        except self.model.DoesNotExist:
            logger.warning(NO_ACTIVE_CONFIG)
            return None

    def activate(self, config: SMTPConfig) -> None:
        """Make ``config`` the active one, in the place of the one that was. Any number of processes may do so at once.

        Raises ``ValidationError`` when REQUIRE_TEST_BEFORE_ACTIVATE asks for a test that it has not passed, and
        ``SMTPConfig.DoesNotExist`` when it was deleted meanwhile.
        """
        self.get(pk=config.pk).save_active(True)
        config.refresh_from_db()

    def deactivate(self) -> None:
        """Leave none active: mail goes by the settings of the project."""
        self.filter(is_active=True).update(is_active=False)

    def lock(self) -> None:
        """Wait for whoever is changing what is active; all rows, always in the same order."""
        list(self.model._default_manager.using(self.db).select_for_update().order_by("pk").values_list("pk", flat=True))

    def update(self, **kwargs: Any) -> int:
        """Update as Django does; the history has an entry for each row, and ``updated_at`` moves.

        Activating one row takes the place of the one that was active. Raises ``ValidationError`` for activating
        several, and as ``activate`` does.
        """
        using = self._alias_for_writing()
        every = self.model._default_manager.using(using)
        signals.config_changing.send(sender=self.model, using=using)
        with transaction.atomic(using=using):
            if "is_active" in kwargs:
                self.lock()
            before = {config.pk: config for config in self.all()}
            if kwargs.get("is_active") in (True, 1) and before:
                if len(before) > 1:
                    raise _two_active()
                every.filter(is_active=True).exclude(pk__in=before).update(is_active=False)
            kwargs.setdefault("updated_at", timezone.now())
            changed = super().update(**kwargs)
            after = list(every.filter(pk__in=before))
            for config in after:
                if config.is_active and not before[config.pk].is_active:
                    config.check_may_be_activated()
            note_updated(before, after)
            signals.config_changed.send(sender=self.model, using=using)
        return changed

    update.alters_data = True  # type: ignore[attr-defined]  # Django's own mark for templates

    def bulk_create(self, objs: Iterable[SMTPConfig], *args: Any, **kwargs: Any) -> list[SMTPConfig]:
        """Create as Django does, recorded; an active one takes the place of the one that was.

        Raises ``ValidationError`` for several active ones, and as ``activate`` does.
        """
        using = self._alias_for_writing()
        configs = list(objs)
        active = [config for config in configs if config.is_active]
        if len(active) > 1:
            raise _two_active()
        for config in active:
            config.check_may_be_activated()
        signals.config_changing.send(sender=self.model, using=using)
        with transaction.atomic(using=using):
            if active:
                self.lock()
                self.model._default_manager.using(using).filter(is_active=True).update(is_active=False)
            created = super().bulk_create(configs, *args, **kwargs)
            names = [config.name for config in created]
            note_updated({}, self.model._default_manager.using(using).filter(name__in=names))
            signals.config_changed.send(sender=self.model, using=using)
        return created

    def _alias_for_writing(self) -> str:
        self._for_write = True  # as Django's own writing methods do: the router is asked for a database to write to
        return self.db


def _two_active() -> ValidationError:
    return ValidationError(_("Only one configuration can be active."), code="two_active")


if TYPE_CHECKING:
    ConfigManager = SMTPConfigQuerySet
else:
    ConfigManager = models.Manager.from_queryset(SMTPConfigQuerySet)
