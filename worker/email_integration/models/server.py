"""What a configuration says of its server: the columns, and what is read of them."""

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

#: The fields that a token is asked for with.
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
    """How one logs in to the server."""

    NONE = "none", _("none")
    PASSWORD = "password", _("password")
    OAUTH = "oauth", _("OAuth 2.0")


class PipeliningChoice(models.TextChoices):
    """Whether several commands go at once (RFC 2920)."""

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
        help_text=_("Without a password, or OAuth, mail is sent without logging in."),
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
    oauth_client_secret = EncryptedTextField(_("client secret"), row="seal_id", blank=True, default="")
    oauth_refresh_token = EncryptedTextField(_("refresh token"), row="seal_id", blank=True, default="")
    oauth_private_key = EncryptedTextField(_("private key"), row="seal_id", blank=True, default="")
    oauth_secret_ends = models.DateField(
        _("client secret ends on"),
        null=True,
        blank=True,
        help_text=_("You will be warned before it expires. The end of a certificate is known and need not be entered."),
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
    ehlo_name = models.CharField(
        _("EHLO name"),
        max_length=255,
        blank=True,
        validators=[validators.validate_ehlo_name],
        help_text=_(
            "What this machine calls itself to the server: a full domain name, such as mail.example.com, or an address "
            "in brackets. Blank means the name of this machine, else its address."
        ),
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
        validators=[MinValueValidator(1), MaxValueValidator(validators.longest_timeout)],
        help_text=_("Seconds to wait for the server."),
    )
    pipelining = models.CharField(
        _("pipelining"),
        max_length=10,
        choices=PipeliningChoice,
        default=PipeliningChoice.AUTOMATIC,
        help_text=_("Several commands at once, where the server offers it. A server that breaks then is found out."),
    )
    max_recipients = models.PositiveIntegerField(
        _("recipients at a time"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text=_(
            "So many recipients get a mail in one transaction, and the others in the next. Blank: as many as the "
            "server takes."
        ),
    )
    max_connections = models.PositiveIntegerField(
        _("connections at a time"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text=_(
            "So many connections to the server each worker process has open at most. Blank: as many as the setting "
            "SESSIONS says."
        ),
    )
    is_active = models.BooleanField(_("active"), default=False)
    # The last connection test: when, how it ended, and a digest of the settings it was made with.
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
        """When it was saved last, '' if it never was: which of its versions this is."""
        return aware(self.updated_at).isoformat() if self.pk else ""

    @property
    def by_token(self) -> bool:
        """Whether one logs in by a token of OAuth."""
        return self.authentication == Authentication.OAUTH

    @property
    def logs_in(self) -> bool:
        """Whether one logs in at all, for which it takes a user name and a password, or a token."""
        secret = self.by_token or (self.authentication == Authentication.PASSWORD and bool(self.sealed_password))
        return bool(self.username) and secret

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
        return not self.why_unreadable

    @property
    @with_secrets
    def why_unreadable(self) -> Text:
        """Why a stored secret cannot be opened, for people; '' when all can."""
        try:
            for name in SECRETS:
                getattr(self, name)  # reading is what opens it
        except SecretUnreadable as error:
            return why_unreadable(error)
        return ""

    @property
    def password_kind(self) -> str:
        """What kind of reference the stored password is, such as 'env'; '' for one that is kept here."""
        return self.kind_of("password")

    @with_secrets
    def kind_of(self, name: str) -> str:
        """The same of each of ``SECRETS``."""
        try:
            found = references.parse(getattr(self, name))
        except SecretUnreadable:
            return ""
        return found.kind if isinstance(found, references.Reference) else ""

    def refresh_from_db(self, using: str | None = None, fields: Any = None, from_queryset: Any = None) -> None:
        """Reload as Django does; secrets stay sealed, so that a lost key does not spoil the rest.

        It is read from where it came, or was saved, and not from a replica.
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
