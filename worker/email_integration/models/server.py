"""The settings of a configuration's server: the columns, and properties of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from email_integration import references, validators
from email_integration.exceptions import SecretUnreadable
from email_integration.fields import EncryptedTextField, why_unreadable
from email_integration.secrecy import with_secrets
from email_integration.timezones import aware

from .oauth import Grant
from .sealed import SealedRow

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise as Text

#: The fields that are sealed, and never shown.
SECRETS = ("password", "oauth_client_secret", "oauth_refresh_token", "oauth_private_key")

#: The fields of a token request.
OF_OAUTH = (
    "oauth_grant",
    "oauth_endpoint",
    "oauth_authorization_endpoint",
    "oauth_client_id",
    "oauth_client_secret",
    "oauth_refresh_token",
    "oauth_private_key",
    "oauth_scope",
)


class Authentication(models.TextChoices):
    """The kind of login to the server."""

    NONE = "none", _("none")
    PASSWORD = "password", _("password")
    OAUTH = "oauth", _("OAuth 2.0")


class PipeliningChoice(models.TextChoices):
    """Whether several commands are sent at once (RFC 2920)."""

    AUTOMATIC = "automatic", _("automatic")
    OFF = "off", _("off")


class ServerSettings(SealedRow):
    """The columns of ``SMTPConfig``."""

    name = models.CharField(_("name"), max_length=100, unique=True)
    host = models.CharField(_("host"), max_length=255, validators=[validators.validate_host])
    port = models.PositiveIntegerField(
        _("port"), default=587, validators=[MinValueValidator(1), MaxValueValidator(65535)]
    )
    username = models.CharField(
        _("username"),
        max_length=255,
        blank=True,
        validators=[validators.validate_username],
        help_text=_("Without a password or OAuth, mail is sent without a login."),
    )
    authentication = models.CharField(
        _("authentication"), max_length=10, choices=Authentication, default=Authentication.PASSWORD
    )
    password = EncryptedTextField(_("password"), row="seal_id", blank=True, default="")
    oauth_grant = models.CharField(
        _("grant"),
        max_length=20,
        choices=Grant,
        default=Grant.CLIENT_CREDENTIALS,
        help_text=_(
            "With client credentials an app logs in as itself. A refresh token lets it act for one person, a service "
            "account for every person in its organization."
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
        help_text=_(
            "The URL where the owner of the mailbox is asked for consent. Leave it blank for Google and Microsoft, "
            "whose URLs are known."
        ),
    )
    oauth_client_id = models.CharField(_("client id"), max_length=255, blank=True)
    oauth_client_secret = EncryptedTextField(_("client secret"), row="seal_id", blank=True, default="")
    oauth_refresh_token = EncryptedTextField(_("refresh token"), row="seal_id", blank=True, default="")
    oauth_private_key = EncryptedTextField(_("private key"), row="seal_id", blank=True, default="")
    oauth_secret_ends = models.DateField(
        _("client secret expires on"),
        null=True,
        blank=True,
        help_text=_(
            "You will be warned before it expires. The expiry of a certificate is known and need not be entered."
        ),
    )
    oauth_scope = models.CharField(_("scope"), max_length=500, blank=True)
    use_tls = models.BooleanField(_("use TLS"), default=True, help_text=_("STARTTLS, usually on port 587."))
    use_ssl = models.BooleanField(_("use SSL"), default=False, help_text=_("TLS from the start, usually on port 465."))
    ca_certificates = models.TextField(
        _("certificate authority"),
        blank=True,
        validators=[validators.validate_certificates],
        help_text=_(
            "Certificates in PEM format. Only these are trusted for this server. Blank: the system's are trusted."
        ),
    )
    ehlo_name = models.CharField(
        _("EHLO name"),
        max_length=255,
        blank=True,
        validators=[validators.validate_ehlo_name],
        help_text=_(
            "The name of this machine in EHLO: a full domain name, such as mail.example.com, or an address in "
            "brackets. Blank: the name of this machine, or its address if it has no full name."
        ),
    )
    from_email = models.CharField(
        _("from email"),
        max_length=320,
        validators=[validators.validate_sender],
        help_text=_("The sender of mail without one: an address, or a name and the address in angle brackets."),
    )
    timeout = models.PositiveIntegerField(
        _("timeout"),
        default=10,
        validators=[MinValueValidator(1), MaxValueValidator(validators.longest_timeout)],
        help_text=_("Seconds to wait for the server."),
    )
    pipelining = models.CharField(
        _("pipelining"),
        max_length=10,
        choices=PipeliningChoice,
        default=PipeliningChoice.AUTOMATIC,
        help_text=_(
            "Automatic: several commands are sent at once if the server offers it. Servers that fail then are detected."
        ),
    )
    max_recipients = models.PositiveIntegerField(
        _("recipients at a time"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text=_(
            "Maximum number of recipients in one transaction; the others get the mail in the next one. Blank: as "
            "many as the server accepts."
        ),
    )
    max_connections = models.PositiveIntegerField(
        _("connections at a time"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text=_(
            "Maximum number of open connections to the server for each worker process. Blank: the value of the "
            "setting SESSIONS."
        ),
    )
    is_active = models.BooleanField(_("active"), default=False)
    # The last connection test: its time, its result, and a digest of its settings.
    tested_at = models.DateTimeField(_("last check"), null=True, editable=False)
    test_passed = models.BooleanField(_("check passed"), null=True, editable=False)
    test_detail = models.CharField(_("check result"), max_length=255, blank=True, editable=False)
    tested_settings = models.CharField(max_length=64, blank=True, editable=False)
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    updated_at = models.DateTimeField(_("updated at"), auto_now=True)

    class Meta:
        abstract = True

    @property
    def version(self) -> str:
        """The time of the last save, which identifies the version; '' if it was never saved."""
        return aware(self.updated_at).isoformat() if self.pk else ""

    @property
    def by_token(self) -> bool:
        """Whether the login uses an OAuth token."""
        return self.authentication == Authentication.OAUTH

    @property
    def logs_in(self) -> bool:
        """Whether there is a login, which needs a user name and a password or token."""
        secret = self.by_token or (self.authentication == Authentication.PASSWORD and bool(self.sealed_password))
        return bool(self.username) and secret

    @property
    def by_refresh_token(self) -> bool:
        """Whether the tokens depend on a consent of the mailbox's owner."""
        return self.by_token and self.oauth_grant == Grant.REFRESH_TOKEN

    @property
    def sealed_password(self) -> Any:
        """The password in the form that this instance holds, unopened: ``Sealed``, or text that is not saved yet."""
        return self.sealed("password")

    def sealed(self, name: str) -> Any:
        """Return one of ``SECRETS`` in the form that this instance holds, unopened: ``Sealed``, or unsaved text."""
        field = self._meta.get_field(name)
        return field.raw(self) if isinstance(field, EncryptedTextField) else ""

    @property
    def sealed_secrets(self) -> tuple[Any, ...]:
        """All of ``SECRETS``, unopened."""
        return tuple(self.sealed(name) for name in SECRETS)

    @property
    def is_readable(self) -> bool:
        """Whether the stored secrets can be opened with the configured keys."""
        return not self.why_unreadable

    @property
    @with_secrets
    def why_unreadable(self) -> Text:
        """The reason why a stored secret cannot be opened, for people; '' when all can."""
        try:
            for name in SECRETS:
                getattr(self, name)  # reading opens it
        except SecretUnreadable as error:
            return why_unreadable(error)
        return ""

    @property
    def password_kind(self) -> str:
        """The kind of reference of the stored password, such as 'env'; '' for a password that is stored here."""
        return self.kind_of("password")

    @with_secrets
    def kind_of(self, name: str) -> str:
        """Return the kind of reference of one of ``SECRETS``; '' for one that is stored here or cannot be opened."""
        try:
            found = references.parse(getattr(self, name))
        except SecretUnreadable:
            return ""
        return found.kind if isinstance(found, references.Reference) else ""

    def refresh_from_db(self, using: str | None = None, fields: Any = None, from_queryset: Any = None) -> None:
        """Reload as Django does; secrets stay sealed, so a lost key does not affect the other fields.

        The row is read from the database that it was read from or saved to, not from a replica.
        """
        if from_queryset is None:
            using = using or self._state.db
        deferred = self.get_deferred_fields()
        wanted = fields or [one.attname for one in self._meta.concrete_fields if one.attname not in deferred]
        others = [name for name in wanted if name not in SECRETS]
        if others:
            super().refresh_from_db(using=using, fields=others, from_queryset=from_queryset)
        for name in set(wanted) & set(SECRETS):
            field = self._meta.get_field(name)
            if isinstance(field, EncryptedTextField):
                field.reload(self, using=using)
