"""How one logs in to a server: what each way needs of a configuration, and what of it is secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.core.exceptions import ValidationError
from django.db import models
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext_lazy as _

from email_integration import references, validators
from email_integration.exceptions import SecretUnavailable, SecretUnreadable
from email_integration.fields import Sealed

from .oauth import Grant, OAuthToken

if TYPE_CHECKING:
    from .config import SMTPConfig

#: The fields that are sealed, and never shown.
SECRETS = ("password", "oauth_client_secret", "oauth_refresh_token")

#: The fields that a token is asked for with.
OF_OAUTH = (
    "oauth_grant",
    "oauth_endpoint",
    "oauth_authorization_endpoint",
    "oauth_client_id",
    "oauth_client_secret",
    "oauth_refresh_token",
    "oauth_scope",
)


class Authentication(models.TextChoices):
    """How one logs in to the server."""

    NONE = "none", _("none")
    PASSWORD = "password", _("password")
    OAUTH = "oauth", _("OAuth 2.0")


_EMPTY = {"oauth_grant": Grant.CLIENT_CREDENTIALS}

_UNUSED = {
    Authentication.NONE.value: ("username", "password", *OF_OAUTH),
    Authentication.PASSWORD.value: OF_OAUTH,
    Authentication.OAUTH.value: ("password",),
}


def forget_unused(config: SMTPConfig) -> None:
    """Empty what the way to log in does not use."""
    unused = [*_UNUSED.get(config.authentication, ())]
    if config.by_token and config.oauth_grant != Grant.REFRESH_TOKEN:
        unused += ["oauth_refresh_token", "oauth_authorization_endpoint"]
    for name in unused:
        setattr(config, name, _EMPTY.get(name, ""))


def missing(config: SMTPConfig) -> list[str]:
    """The fields that a login by token needs and that are empty."""
    secret = "oauth_refresh_token" if config.oauth_grant == Grant.REFRESH_TOKEN else "oauth_client_secret"
    filled = {name: getattr(config, name) for name in ("username", "oauth_endpoint", "oauth_client_id")}
    return [name for name, value in {**filled, secret: config.sealed(secret)}.items() if not value]


def check_complete(config: SMTPConfig) -> None:
    """Refuse what lacks something; only where mail goes by it must the refresh token be there already.

    Raises ``ValidationError``.
    """
    empty = dict.fromkeys(missing(config), validators.BLANK)
    if empty.pop("oauth_refresh_token", None) and config.is_active:
        empty["oauth_refresh_token"] = validators.CONSENT_FIRST
    if empty:
        raise ValidationError(empty)


def check_reference(config: SMTPConfig) -> None:
    """Refuse a new password that refers to nothing that can be had. Raises ``ValidationError``."""
    password = config.sealed_password
    if password and not isinstance(password, Sealed):
        try:
            references.check(password)
        except SecretUnavailable as error:
            raise ValidationError({"password": str(error)}, code="reference") from None


def check_kept_secrets(config: SMTPConfig, before: SMTPConfig) -> None:
    """Refuse to give what is stored to somebody else: whoever may edit need not know it. Raises ``ValidationError``."""
    kept = [name for name in SECRETS if before.sealed(name) and before.sealed(name) == config.sealed(name)]
    places = ("host", "port", "username", *(("oauth_endpoint",) if config.by_token else ()))
    if kept and any(getattr(before, name) != getattr(config, name) for name in places):
        again = validators.SECRET_AGAIN if config.by_token else validators.PASSWORD_AGAIN
        raise ValidationError(dict.fromkeys(kept, again))


def token_digest(config: SMTPConfig) -> str:
    """A keyed digest of all that a token is asked for with. Raises ``SecretUnreadable``."""
    values = tuple(str(getattr(config, name)) for name in OF_OAUTH)
    return salted_hmac("email_integration.token", repr(values), algorithm="sha256").hexdigest()


def current_token(config: SMTPConfig) -> OAuthToken | None:
    """What is known of the token that was asked for with the settings of ``config`` as they are now."""
    try:
        return OAuthToken.objects.filter(pk=config.pk, settings=token_digest(config)).first()
    except SecretUnreadable:
        return None
