"""The Django app."""

from __future__ import annotations

from importlib.util import find_spec

from django.apps import AppConfig
from django.core.exceptions import ImproperlyConfigured
from django.db.models.signals import post_delete, post_save, pre_delete, pre_save
from django.utils.translation import gettext_lazy as _


class EmailIntegrationConfig(AppConfig):
    """The app's configuration: connects configuration generations to every write, and loads the checks and tasks."""

    name = "email_integration"
    verbose_name = _("Email Integration")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Connect the signals: each write of a configuration renews the generation, wakes deliveries and is audited."""
        from simple_history.signals import pre_create_historical_record  # not importable before the apps are loaded

        from email_integration.queue import retry_now

        from . import checks, signals, tasks  # noqa: F401  # importing them registers them
        from .models import RefreshFamily, SendingPause, SMTPConfig, audit
        from .models.oauth import keep_newer
        from .routing import generation

        for sender in (SMTPConfig, SendingPause):
            for before in (pre_save, pre_delete, signals.config_changing):
                before.connect(generation.mark_dirty, sender=sender, dispatch_uid="email_integration.generation")
            for after in (post_save, post_delete, signals.config_changed):
                after.connect(generation.renew_on_commit, sender=sender, dispatch_uid="email_integration.generation")
                # Connected after the generation, so a woken worker never uses the old configuration.
                after.connect(retry_now.wake_on_commit, sender=sender, dispatch_uid="email_integration.wake")
        pre_save.connect(keep_newer, sender=RefreshFamily, dispatch_uid="email_integration.keep_newer")
        pre_create_historical_record.connect(
            audit.describe, sender=SMTPConfig.history.model, dispatch_uid="email_integration.audit"
        )
        _trace()


def _trace() -> None:
    """Start tracing mails with OpenTelemetry, if the setting TRACES is true and OpenTelemetry is installed."""
    from . import conf

    try:
        wanted = conf.get("TRACES")
    except ImproperlyConfigured:  # the system checks report it
        return
    if wanted and find_spec("opentelemetry") is not None:
        from . import tracing

        tracing.begin()
