"""The settings of the SMTP servers, and the choice of the active one."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from django.core.exceptions import ValidationError
from django.db import IntegrityError, models, router, transaction
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac
from django.utils.translation import gettext_lazy as _

from email_integration import conf, signals, validators, web
from email_integration.exceptions import SecretUnreadable
from email_integration.fields import Sealed
from email_integration.secrecy import with_secrets

from . import login
from .audit import AuditEntry, Event, History, event_of, note, note_updated
from .primary import PrimaryManager
from .sealed import SealedQuerySet, sensitive_methods
from .server import SECRETS, ServerSettings

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise as Text


logger = logging.getLogger(__name__)

NO_ACTIVE_CONFIG = "No active SMTP Configuration found in database. Falling back to Django settings."


@sensitive_methods
class SMTPConfigQuerySet(SealedQuerySet["SMTPConfig"]):
    """A query set whose writes without ``save()`` reach all workers and the audit log too."""

    def get_active_config(self) -> SMTPConfig | None:
        """Return the active configuration; None, with a warning in the log, when there is none.

        Raises ``SMTPConfig.MultipleObjectsReturned`` if the database's constraint was bypassed.
        """
        try:
            return self.get(is_active=True)
        except self.model.DoesNotExist:
            logger.warning(NO_ACTIVE_CONFIG)
            return None

    def activate(self, config: SMTPConfig) -> None:
        """Make ``config`` the active one instead of the current one. Several processes may do so at the same time.

        Raises ``ValidationError`` when REQUIRE_TEST_BEFORE_ACTIVATE is set and the required test is not passed, or when
        a refresh token is missing, and ``SMTPConfig.DoesNotExist`` when it was deleted meanwhile.
        """
        self.get(pk=config.pk).save_active(True)
        config.refresh_from_db()

    def deactivate(self) -> None:
        """Deactivate the active configuration: mail then uses the settings of the project."""
        self.filter(is_active=True).update(is_active=False)

    def lock(self) -> None:
        """Wait for other changes of the active configuration; locks all rows, always in the same order."""
        list(self.model._default_manager.using(self.db).select_for_update().order_by("pk").values_list("pk", flat=True))

    def update(self, **kwargs: Any) -> int:
        """Update as Django does; add an entry to the history for each row, and set ``updated_at``.

        Activating one row deactivates the current one. Raises ``ValidationError`` for activating several, and the
        errors of ``activate``.
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
        """Create as Django does, and record it; an active configuration replaces the current one.

        Raises ``ValidationError`` for several active ones, and the errors of ``activate``.
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
    ConfigManager = sensitive_methods(PrimaryManager.from_queryset(SMTPConfigQuerySet))


class SMTPConfig(ServerSettings):
    """The settings of one SMTP server; mail is sent with the active one."""

    # NULL in every row except the active one: a unique index that every database enforces, MySQL and MariaDB included,
    # which do not support partial indexes.
    active_slot = models.GeneratedField(
        expression=models.Case(models.When(is_active=True, then=models.Value(1)), default=models.Value(None)),
        output_field=models.SmallIntegerField(null=True),
        db_persist=True,
        unique=True,
        editable=False,
    )

    objects: ClassVar[SMTPConfigQuerySet] = ConfigManager()
    # Without secrets; and without the last test, which a revert must not restore.
    history = History(
        bases=[AuditEntry],
        excluded_fields=[
            *SECRETS,
            "seal_id",
            "active_slot",
            "tested_at",
            "test_passed",
            "test_detail",
            "tested_settings",
        ],
        app="email_integration",
    )

    #: The event that the next save records, and whether a secret changes; see ``save``.
    audit_change: tuple[Event, bool] = (Event.CHANGED, False)

    class Meta:
        verbose_name = _("SMTP Configuration")
        verbose_name_plural = _("SMTP Configurations")
        ordering = ("name",)
        permissions = (
            ("activate_smtpconfig", _("Can activate and deactivate SMTP configurations")),
            ("test_smtpconfig", _("Can test SMTP configurations")),
        )
        constraints = (
            models.CheckConstraint(
                condition=~models.Q(use_tls=True, use_ssl=True),
                name="smtpconfig_tls_or_ssl",
                violation_error_message=validators.TLS_OR_SSL,
            ),
            models.CheckConstraint(
                condition=models.Q(port__gte=1, port__lte=65535),
                name="smtpconfig_port",
                violation_error_message=validators.PORT_RANGE,
            ),
        )

    def __str__(self) -> str:
        return f"{self.name} - {self.host}:{self.port} ({_('Active') if self.is_active else _('Inactive')})"

    # -- writing ------------------------------------------------------------------------------------------------

    @with_secrets
    def save(self, *, using: str | None = None, **kwargs: Any) -> None:
        """Save; an active configuration replaces the current one in the same transaction.

        Fields that its kind of login does not use are emptied. Raises ``ValidationError`` when TLS and SSL are both on,
        and the errors of ``SMTPConfig.objects.activate``.
        """
        if kwargs.get("update_fields") is None:
            login.forget_unused(self)
        if self.use_tls and self.use_ssl:
            raise ValidationError({"use_ssl": validators.TLS_OR_SSL})
        using = using or router.db_for_write(type(self), instance=self)
        self.identify(using)
        try:
            self._save(using, **kwargs)
        except IntegrityError:
            if not self.is_active:
                raise
            # Without a row to lock, another first row may have been inserted meanwhile: now there is one.
            self._save(using, **kwargs)

    def _save(self, using: str, **kwargs: Any) -> None:
        configs = type(self).objects.using(using)
        written = kwargs.get("update_fields")
        with transaction.atomic(using=using):
            if self.is_active:
                configs.lock()
            before = configs.filter(pk=self.pk).first() if self.pk else None
            if before is not None:
                self.identify_as(before.seal_id)
            if before is not None and written is not None and "is_active" not in written:
                self.is_active = before.is_active  # not written now: the value of an old copy is not a decision
            elif self.is_active:
                if before is None or not before.is_active:
                    self.check_may_be_activated()
                configs.filter(is_active=True).exclude(pk=self.pk).update(is_active=False)
            writes_secret = written is None or any(name in written for name in SECRETS)
            self.audit_change = (event_of(before, self), writes_secret and self._secret_differs(before))
            super().save(using=using, **kwargs)

    def save_active(self, active: bool) -> None:
        """Save only whether this configuration is active."""
        self.is_active = active
        self.save(update_fields=["is_active", "updated_at"])

    def record_test(self, *, passed: bool, detail: str, user: Any = None) -> None:
        """Store the result of a connection test with the current settings of this instance, and record the ``user``."""
        self.tested_at = timezone.now()
        self.test_passed = passed
        self.test_detail = detail[:255]
        self.tested_settings = self.settings_digest()
        # Not update() of this app: no setting of the relay has changed.
        models.QuerySet(type(self)).filter(pk=self.pk).update(
            tested_at=self.tested_at,
            test_passed=self.test_passed,
            test_detail=self.test_detail,
            tested_settings=self.tested_settings,
        )
        note(self, Event.TESTED, user=user, reason="passed" if passed else detail)

    def check_may_be_activated(self) -> None:
        """Raise ``ValidationError`` if a refresh token is missing, or a passed test that is required."""
        if self.by_refresh_token and not self.sealed("oauth_refresh_token"):
            raise ValidationError(validators.CONSENT_FIRST, code="no_consent")
        if conf.get("REQUIRE_TEST_BEFORE_ACTIVATE") and not self.passed_test:
            raise ValidationError(
                _("“%(name)s” has not passed a connection test since its last change. Test it first, then activate it.")
                % {"name": self.name},
                code="not_tested",
            )

    # -- reading ------------------------------------------------------------------------------------------------

    @property
    def passed_test(self) -> bool:
        """Whether the last connection test passed, with the current settings."""
        return bool(self.test_passed) and constant_time_compare(self.tested_settings, self.settings_digest())

    @property
    def defect(self) -> Text:
        """The reason why no mail can be sent with this configuration, even if other code wrote it; '' for none."""
        if self.use_tls and self.use_ssl:
            return validators.TLS_OR_SSL
        if not 1 <= self.port <= 65535:
            return validators.PORT_RANGE
        if not self.host or self.timeout < 1:
            return validators.HOST_AND_TIMEOUT
        if self.by_token and (login.missing(self) or not web.is_url(self.oauth_endpoint)):
            return validators.OAUTH_INCOMPLETE
        return self.why_unreadable

    @with_secrets
    def clean(self) -> None:
        """Check for settings that cannot work. Raises ``ValidationError`` with an explanation."""
        super().clean()
        validators.validate_encryption(port=self.port, use_tls=self.use_tls, use_ssl=self.use_ssl)
        login.forget_unused(self)
        if self.by_token:
            login.read_private_key(self)
            login.check_complete(self)
            validators.validate_token_encryption(host=self.host or "", encrypted=self.use_tls or self.use_ssl)
        before = type(self).objects.filter(pk=self.pk).first() if self.pk else None
        login.check_kept_secrets(self, before)
        login.check_references(self)

    @with_secrets
    def clean_fields(self, exclude: Any = None) -> None:
        """Skip a secret that is still sealed: it was checked when it was entered."""
        sealed = {name for name in SECRETS if isinstance(self.sealed(name), Sealed)}
        super().clean_fields(exclude={*(exclude or ()), *sealed})

    def validate_unique(self, exclude: Any = None) -> None:
        """Leave the generated column to the database: Django cannot read it before the row exists."""
        super().validate_unique(exclude={*(exclude or ()), "active_slot"})

    @with_secrets
    def validate_constraints(self, exclude: Any = None) -> None:
        """Skip the secrets: no constraint concerns them, and Django would open them, which fails without their key."""
        super().validate_constraints(exclude={*(exclude or ()), *SECRETS})

    def _secret_differs(self, before: SMTPConfig | None) -> bool:
        old = before.sealed_secrets if before is not None else ("",) * len(SECRETS)
        return self.sealed_secrets != old

    @with_secrets
    def settings_digest(self) -> str:
        """Return a keyed digest of all settings that a connection test depends on; '' if a secret cannot be opened."""
        try:
            values = (
                self.host,
                self.port,
                self.username,
                self.password,
                self.use_tls,
                self.use_ssl,
                self.ca_certificates,
                self.ehlo_name,
                *((login.token_digest(self),) if self.by_token else ()),
            )
        except SecretUnreadable:
            return ""
        return salted_hmac("email_integration.tested_settings", repr(values), algorithm="sha256").hexdigest()
