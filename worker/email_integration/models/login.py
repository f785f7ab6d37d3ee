"""The kinds of login to a server: the fields that each needs, and the secret ones."""

from __future__ import annotations

import contextlib
import datetime as dt

from django.core.exceptions import ValidationError
from django.utils.crypto import salted_hmac

from email_integration import conf, references, validators
from email_integration.exceptions import SecretUnavailable, SecretUnreadable
from email_integration.fields import Sealed
from email_integration.secrecy import with_secrets
from email_integration.timezones import today

from . import private_key
from .oauth import Grant, OAuthToken
from .server import OF_OAUTH, SECRETS, Authentication, ServerSettings

_EMPTY = {"oauth_grant": Grant.CLIENT_CREDENTIALS, "oauth_secret_ends": None}

_UNUSED = {
    Authentication.NONE.value: ("username", "password", "oauth_secret_ends", *OF_OAUTH),
    Authentication.PASSWORD.value: ("oauth_secret_ends", *OF_OAUTH),
    Authentication.OAUTH.value: ("password",),
}

_UNUSED_BY_GRANT = {
    Grant.CLIENT_CREDENTIALS.value: ("oauth_refresh_token", "oauth_authorization_endpoint"),
    Grant.REFRESH_TOKEN.value: ("oauth_private_key",),
    Grant.JWT_BEARER.value: (
        "oauth_client_secret",
        "oauth_refresh_token",
        "oauth_authorization_endpoint",
        "oauth_secret_ends",
    ),
}

#: The fields of a grant's proof: one of these is needed.
_PROOFS = {
    Grant.REFRESH_TOKEN.value: ("oauth_refresh_token",),
    Grant.JWT_BEARER.value: ("oauth_private_key",),
}


def unused_fields(config: ServerSettings) -> tuple[str, ...]:
    """Return the fields that the kind of login does not use."""
    by_grant = _UNUSED_BY_GRANT.get(config.oauth_grant, ()) if config.by_token else ()
    return (*_UNUSED.get(config.authentication, ()), *by_grant)


@with_secrets
def forget_unused(config: ServerSettings) -> None:
    """Empty the fields that the kind of login does not use."""
    for name in unused_fields(config):
        setattr(config, name, _EMPTY.get(name, ""))
    secret, key = config.sealed("oauth_client_secret"), config.sealed("oauth_private_key")
    if secret and key:  # the one entered last replaces the other
        if isinstance(key, Sealed) and not isinstance(secret, Sealed):
            _forget_private_key(config)
        else:
            config.oauth_client_secret = ""


@with_secrets
def _forget_private_key(config: ServerSettings) -> None:
    """Empty the private key and the expiry of its certificate; an expiry entered for the client secret stays."""
    with contextlib.suppress(SecretUnreadable, ValidationError):
        forgotten = private_key.read(references.resolve(config.oauth_private_key), certified=True)
        if config.oauth_secret_ends == forgotten.ends_on:
            config.oauth_secret_ends = None
    config.oauth_private_key = ""


def missing(config: ServerSettings) -> list[str]:
    """Return the empty fields that a login by token needs."""
    proofs = _PROOFS.get(config.oauth_grant, ("oauth_client_secret", "oauth_private_key"))
    empty = [name for name in ("username", "oauth_endpoint", "oauth_client_id") if not getattr(config, name)]
    return empty if any(config.sealed(name) for name in proofs) else [*empty, proofs[0]]


def check_complete(config: ServerSettings) -> None:
    """Check that no needed field is empty. The refresh token may be missing while the configuration is not active.

    Raises ``ValidationError``.
    """
    empty = dict.fromkeys(missing(config), validators.BLANK)
    if empty.pop("oauth_refresh_token", None) and config.is_active:
        empty["oauth_refresh_token"] = validators.CONSENT_FIRST
    if empty:
        raise ValidationError(empty)


@with_secrets
def read_private_key(config: ServerSettings) -> None:
    """Check the private key, and set the fields that its text defines. Raises ``ValidationError`` if unusable."""
    is_stored = isinstance(config.sealed("oauth_private_key"), Sealed)
    if not config.by_token or (is_stored and config.kind_of("oauth_private_key")):
        return  # a key stored elsewhere may have changed, and is read on use
    try:
        text = references.resolve(config.oauth_private_key)
    except SecretUnreadable:
        return  # reported for all secrets together
    if not text:
        return
    try:
        found = private_key.read(text, certified=config.oauth_grant == Grant.CLIENT_CREDENTIALS)
    except ValidationError as error:
        raise ValidationError({"oauth_private_key": error}) from None
    config.oauth_client_id = found.issuer or config.oauth_client_id
    config.oauth_endpoint = config.oauth_endpoint or found.endpoint
    config.oauth_secret_ends = found.ends_on or config.oauth_secret_ends


def soon() -> dt.date:
    """Return the last day on which an expiring secret is reported: SECRET_ENDS_WITHIN days from today."""
    return today() + dt.timedelta(days=conf.get("SECRET_ENDS_WITHIN"))


def ending(config: ServerSettings) -> str:
    """Return which secret of ``config`` expires and when, if that is soon or past; '' otherwise."""
    ends = config.oauth_secret_ends
    if ends is None or ends > soon():
        return ""
    what = "certificate" if config.sealed("oauth_private_key") else "client secret"
    return f"{what} of {config.name} {'expired' if ends < today() else 'expires'} on {ends}"


@with_secrets
def check_references(config: ServerSettings) -> None:
    """Check that each new reference leads to a secret. Raises ``ValidationError``."""
    for name in SECRETS:
        entered = config.sealed(name)
        if entered and not isinstance(entered, Sealed):
            try:
                references.check(entered)
            except SecretUnavailable as error:
                raise ValidationError({name: str(error)}, code="reference") from None


@with_secrets
def check_kept_secrets(config: ServerSettings, before: ServerSettings | None) -> None:
    """Refuse to send stored secrets to another server, or less protected: a person who may edit need not know them.

    ``before`` is the stored row, None if there is none. A secret that differs from the row's was read before another
    replaced it: it belonged to the server of the row at that time. Raises ``ValidationError``.
    """
    again = [name for name in SECRETS if _is_kept(config, before, name)]
    if before is not None and not _goes_elsewhere(config, before):
        again = [name for name in again if config.sealed(name) != before.sealed(name)]
    if again:
        words = validators.SECRET_AGAIN if config.by_token else validators.PASSWORD_AGAIN
        raise ValidationError(dict.fromkeys(again, words))


@with_secrets
def _is_kept(config: ServerSettings, before: ServerSettings | None, name: str) -> bool:
    """Return whether a secret was not entered now; code other than this app may have stored it in plain text."""
    secret = config.sealed(name)
    return isinstance(secret, Sealed) or (bool(secret) and before is not None and secret == before.sealed(name))


def _goes_elsewhere(config: ServerSettings, before: ServerSettings) -> bool:
    places = ("host", "port", "username", *(("oauth_endpoint",) if config.by_token else ()))
    return any(getattr(before, name) != getattr(config, name) for name in places) or _is_heard_by_others(config, before)


def _is_heard_by_others(config: ServerSettings, before: ServerSettings) -> bool:
    """Return whether an eavesdropper could newly read the secrets: without TLS, or with other authorities."""
    unprotected = not (config.use_tls or config.use_ssl)
    # Compare without line ends, because browsers change them.
    authorities = [one.ca_certificates.split() for one in (config, before)]
    return (unprotected and (before.use_tls or before.use_ssl)) or authorities[0] != authorities[1]


@with_secrets
def token_digest(config: ServerSettings) -> str:
    """Return a keyed digest of all fields of a token request. Raises ``SecretUnreadable``."""
    values = [str(getattr(config, name)) for name in OF_OAUTH]
    if config.oauth_grant == Grant.JWT_BEARER:
        values.append(config.username)  # the mailbox that the token is for
    return salted_hmac("email_integration.token", repr(tuple(values)), algorithm="sha256").hexdigest()


def current_token(config: ServerSettings) -> OAuthToken | None:
    """Return the row of the token for the current settings of ``config``, or None."""
    try:
        return OAuthToken.objects.filter(pk=config.pk, settings=token_digest(config)).first()
    except SecretUnreadable:
        return None
