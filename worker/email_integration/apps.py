"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig
from django.db.models.signals import post_delete, post_save, pre_delete, pre_save
from django.utils.translation import gettext_lazy as _


class EmailIntegrationConfig(AppConfig):
    """Connects the stamp to every write of a configuration, and installs the doorbell."""

    name = "email_integration"
    verbose_name = _("Email Integration")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks, signals, tasks  # noqa: F401  # importing them registers them
        from .models import SMTPConfig  # models exist only now
        from .routing import stamp

        for before in (pre_save, pre_delete, signals.config_changing):
            before.connect(stamp.mark_dirty, sender=SMTPConfig, dispatch_uid="email_integration.stamp")
        for after in (post_save, post_delete, signals.config_changed):
            after.connect(stamp.renew_on_commit, sender=SMTPConfig, dispatch_uid="email_integration.stamp")
