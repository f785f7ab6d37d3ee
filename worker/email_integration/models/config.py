"""The settings of the SMTP servers, and which of them is active."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import IntegrityError, models, router, transaction
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac
from django.utils.translation import gettext_lazy as _
from simple_history.models import HistoricalRecords

from email_integration import conf, references, validators, web
from email_integration.exceptions import SecretUnreadable
from email_integration.fields import UNREADABLE, EncryptedTextField, Sealed
from email_integration.timezones import aware

from . import login
from .audit import AuditEntry, Event, event_of, note
from .login import SECRETS, Authentication
from .oauth import Grant
from .querysets import ConfigManager, SMTPConfigQuerySet

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise as Text


class SMTPConfig(models.Model):
    """The settings of one SMTP server; mail goes through the one that is active."""

    name = models.CharField(_("name"), max_length=100, unique=True)
    host = models.CharField(_("host"), max_length=255, validators=[validators.validate_host])
    port = models.PositiveIntegerField(
        _("port"), default=587, validators=[MinValueValidator(1), MaxValueValidator(65535)]
    )
    username = models.CharField(_("username"), max_length=255, blank=True)
    authentication = models.CharField(
        _("authentication"), max_length=10, choices=Authentication, default=Authentication.PASSWORD
    )
    password = EncryptedTextField(_("password"), blank=True, default="")
    oauth_grant = models.CharField(
        _("grant"),
        max_length=20,
        choices=Grant,
        default=Grant.CLIENT_CREDENTIALS,
        help_text=_(
            "Client credentials let an app in, a refresh token lets it act for one person, a service account for "
            "everybody in its organization."
        ),
    )
    oauth_endpoint = models.CharField(
        _("token endpoint"), max_length=500, blank=True, validators=[validators.validate_endpoint]
    )
    oauth_authorization_endpoint = models.CharField(
        _("authorization endpoint"),
        max_length=500,
        blank=True,
        validators=[validators.validate_endpoint],
        help_text=_("Where the owner of the mailbox is asked for consent. Of Google and Microsoft it is known."),
    )
    oauth_client_id = models.CharField(_("client id"), max_length=255, blank=True)
    oauth_client_secret = EncryptedTextField(_("client secret"), blank=True, default="")
    oauth_refresh_token = EncryptedTextField(_("refresh token"), blank=True, default="")
    oauth_private_key = EncryptedTextField(_("private key"), blank=True, default="")
    oauth_secret_ends = models.DateField(
        _("client secret ends on"),
        null=True,
        blank=True,
        help_text=_("People are told in time. The end of a certificate is known and need not be entered."),
    )
    oauth_scope = models.CharField(_("scope"), max_length=500, blank=True)
    use_tls = models.BooleanField(_("use TLS"), default=True, help_text=_("STARTTLS, usually on port 587."))
    use_ssl = models.BooleanField(_("use SSL"), default=False, help_text=_("TLS from the start, usually on port 465."))
    ca_certificates = models.TextField(
        _("certificate authority"),
        blank=True,
        validators=[validators.validate_certificates],
        help_text=_("Certificates in PEM format. Only they are trusted for this server; blank trusts the system's."),
    )
    from_email = models.CharField(
        _("from email"),
        max_length=320,
        validators=[validators.validate_sender],
        help_text=_("The sender of mail that names none: an address, or a name and the address in angle brackets."),
    )
    timeout = models.PositiveIntegerField(
        _("timeout"),
        default=10,
        validators=[MinValueValidator(1), MaxValueValidator(600)],
        help_text=_("Seconds to wait for the server."),
    )
    is_active = models.BooleanField(_("active"), default=False)
    # The last connection test: when, how it ended, and a digest of the settings it was made with.
    tested_at = models.DateTimeField(_("last check"), null=True, editable=False)
    test_passed = models.BooleanField(_("check passed"), null=True, editable=False)
    test_detail = models.CharField(_("check result"), max_length=255, blank=True, editable=False)
    tested_settings = models.CharField(max_length=64, blank=True, editable=False)
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    updated_at = models.DateTimeField(_("updated at"), auto_now=True)
    # NULL in every row but the active one: a unique index that every database enforces, MySQL and MariaDB too, which
    # know no partial ones.
    active_slot = models.GeneratedField(
        expression=models.Case(models.When(is_active=True, then=models.Value(1)), default=models.Value(None)),
        output_field=models.SmallIntegerField(null=True),
        db_persist=True,
        unique=True,
        editable=False,
    )

    objects: ClassVar[SMTPConfigQuerySet] = ConfigManager()
    # No secret; and not the last test, which a revert must not bring back.
    history = HistoricalRecords(
        bases=[AuditEntry],
        excluded_fields=[*SECRETS, "active_slot", "tested_at", "test_passed", "test_detail", "tested_settings"],
        app="email_integration",
    )

    #: What the next save records; see ``save``.
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

    def save(self, *, using: str | None = None, **kwargs: Any) -> None:
        """Save; an active configuration takes the place of the one that was active, in the same transaction.

        What its way to log in does not use is not kept. Raises ``ValidationError`` when TLS and SSL are both on, and
        as ``SMTPConfig.objects.activate`` does.
        """
        if kwargs.get("update_fields") is None:
            login.forget_unused(self)
        if self.use_tls and self.use_ssl:
            raise ValidationError({"use_ssl": validators.TLS_OR_SSL})
        using = using or router.db_for_write(type(self), instance=self)
        try:
            self._save(using, **kwargs)
        except IntegrityError:
            if not self.is_active:
                raise
            # Where no row was there to lock, another first one may have come between: now there is one.
            self._save(using, **kwargs)

    def _save(self, using: str, **kwargs: Any) -> None:
        configs = type(self).objects.using(using)
        written = kwargs.get("update_fields")
        with transaction.atomic(using=using):
            if self.is_active:
                configs.lock()
            before = configs.filter(pk=self.pk).first() if self.pk else None
            if before is not None and written is not None and "is_active" not in written:
                self.is_active = before.is_active  # not written now: what an old copy says of it is no wish
            elif self.is_active:
                if before is None or not before.is_active:
                    self.check_may_be_activated()
                configs.filter(is_active=True).exclude(pk=self.pk).update(is_active=False)
            writes_secret = written is None or any(name in written for name in SECRETS)
            self.audit_change = (event_of(before, self), writes_secret and self._secret_differs(before))
            super().save(using=using, **kwargs)

    def save_active(self, active: bool) -> None:
        """Save nothing but whether this configuration is active."""
        self.is_active = active
        self.save(update_fields=["is_active", "updated_at"])

    def record_test(self, *, passed: bool, detail: str, user: Any = None) -> None:
        """Keep how a connection test with the settings as they are in this instance ended, and who made it."""
        self.tested_at = timezone.now()
        self.test_passed = passed
        self.test_detail = detail[:255]
        self.tested_settings = self.settings_digest()
        # Not update() of this app: nothing that mail goes by has changed.
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
        """Whether the last connection test passed and was made with the settings as they are now."""
        return bool(self.test_passed) and constant_time_compare(self.tested_settings, self.settings_digest())

    @property
    def version(self) -> str:
        """When it was saved last, '' if it never was: which of its versions this is."""
        return aware(self.updated_at).isoformat() if self.pk else ""

    @property
    def by_token(self) -> bool:
        """Whether one logs in by a token of OAuth."""
        return self.authentication == Authentication.OAUTH

    @property
    def by_refresh_token(self) -> bool:
        """Whether those tokens are had by what the owner of the mailbox has consented to."""
        return self.by_token and self.oauth_grant == Grant.REFRESH_TOKEN

    @property
    def sealed_password(self) -> Any:
        """The password as this instance holds it, unopened: ``Sealed``, or text not saved yet."""
        return self.sealed("password")

    def sealed(self, name: str) -> Any:
        """One of ``SECRETS`` as this instance holds it, unopened: ``Sealed``, or text not saved yet."""
        field = self._meta.get_field(name)
        return field.raw(self) if isinstance(field, EncryptedTextField) else ""

    @property
    def sealed_secrets(self) -> tuple[Any, ...]:
        """All of ``SECRETS``, unopened."""
        return tuple(self.sealed(name) for name in SECRETS)

    @property
    def is_readable(self) -> bool:
        """Whether the stored secrets can be opened with the keys at hand."""
        try:
            for name in SECRETS:
                getattr(self, name)  # reading is what opens it
        except SecretUnreadable:
            return False
        return True

    @property
    def password_kind(self) -> str:
        """What kind of reference the stored password is, such as 'env'; '' for one that is kept here."""
        return self.kind_of("password")

    def kind_of(self, name: str) -> str:
        """The same of each of ``SECRETS``."""
        try:
            found = references.parse(getattr(self, name))
        except SecretUnreadable:
            return ""
        return found.kind if isinstance(found, references.Reference) else ""

    @property
    def defect(self) -> Text:
        """Why no mail can go through this configuration, whoever wrote it into the database; '' when it can."""
        if self.use_tls and self.use_ssl:
            return validators.TLS_OR_SSL
        if not 1 <= self.port <= 65535:
            return validators.PORT_RANGE
        if not self.host or self.timeout < 1:
            return validators.HOST_AND_TIMEOUT
        if self.by_token and (login.missing(self) or not web.is_url(self.oauth_endpoint)):
            return validators.OAUTH_INCOMPLETE
        if not self.is_readable:
            return UNREADABLE
        return ""

    def refresh_from_db(self, using: str | None = None, fields: Any = None, from_queryset: Any = None) -> None:
        """Reload as Django does; secrets stay sealed, so that a lost key does not spoil the rest."""
        deferred = self.get_deferred_fields()
        wanted = fields or [one.attname for one in self._meta.concrete_fields if one.attname not in deferred]
        others = [name for name in wanted if name not in SECRETS]
        if others:
            super().refresh_from_db(using=using, fields=others, from_queryset=from_queryset)
        for name in set(wanted) & set(SECRETS):
            field = self._meta.get_field(name)
            if isinstance(field, EncryptedTextField):
                field.reload(self, using=using)

    def clean(self) -> None:
        """Explain what cannot work. Raises ``ValidationError``."""
        super().clean()
        validators.validate_encryption(port=self.port, use_tls=self.use_tls, use_ssl=self.use_ssl)
        login.forget_unused(self)
        if self.by_token:
            login.read_private_key(self)
            login.check_complete(self)
            validators.validate_token_encryption(host=self.host or "", encrypted=self.use_tls or self.use_ssl)
        before = type(self).objects.filter(pk=self.pk).first() if self.pk else None
        if before is not None:
            login.check_kept_secrets(self, before)
        login.check_references(self)

    def clean_fields(self, exclude: Any = None) -> None:
        """Leave a secret alone that is still sealed: it was checked when it was entered."""
        sealed = {name for name in SECRETS if isinstance(self.sealed(name), Sealed)}
        super().clean_fields(exclude={*(exclude or ()), *sealed})

    def validate_unique(self, exclude: Any = None) -> None:
        """Leave the generated column to the database: Django cannot read it before the row is there."""
        super().validate_unique(exclude={*(exclude or ()), "active_slot"})

    def validate_constraints(self, exclude: Any = None) -> None:
        """Leave the secrets out: no constraint is about them, and Django would open them, which a lost key forbids."""
        super().validate_constraints(exclude={*(exclude or ()), *SECRETS})

    def _secret_differs(self, before: SMTPConfig | None) -> bool:
        old = before.sealed_secrets if before is not None else ("",) * len(SECRETS)
        return self.sealed_secrets != old

    def settings_digest(self) -> str:
        """A keyed digest of all that a connection test depends on; '' when a secret cannot be opened."""
        try:
            values = (
                self.host,
                self.port,
                self.username,
                self.password,
                self.use_tls,
                self.use_ssl,
                self.ca_certificates,
                *((login.token_digest(self),) if self.by_token else ()),
            )
        except SecretUnreadable:
            return ""
        return salted_hmac("email_integration.tested_settings", repr(values), algorithm="sha256").hexdigest()
