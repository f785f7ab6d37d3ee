"""The active relay, which each attempt asks for; answered from a copy while the generation allows it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from django.db import transaction
from django.utils import translation

from email_integration import conf, references, validators
from email_integration.exceptions import SecretUnavailable, SecretUnreadable
from email_integration.models import Authentication, SendingPause, SMTPConfig
from email_integration.models.login import token_digest
from email_integration.models.server import PipeliningChoice
from email_integration.outcomes.causes import Cause
from email_integration.secrecy import with_secrets
from email_integration.smtp import Relay

from . import generation
from .fallback import settings_relay
from .route import Nowhere, Route
from .token_endpoint import Account
from .tokens import StoredTokens

logger = logging.getLogger(__name__)

TWO_ACTIVE = "several SMTP configurations are active, but only one is allowed: deactivate the others"


#: Maximum number of reads when answers take too long.
_TRIES = 3

#: The part of CONFIG_CACHE_TTL after which a copy is renewed with ``early``.
_EARLY = 0.8


@dataclass(frozen=True, kw_only=True)
class _Copy:
    generation: str
    route: Route
    read_at: float


# One copy per process: the route, its generation, and the time of the read. Replaced as a whole, so readers need no
# lock.
_copy: _Copy | None = None

# The last route, to detect a switch.
_last: tuple[str, str] | None = None


def active_relay(*, early: bool = False) -> Route:
    """Return the relay of the active ``SMTPConfig``, else that of Django's settings, else ``Nowhere``.

    It was active a moment ago, unless both the cache and the database are too slow to confirm this.

    The cost is one read of the shared cache, unless there was one a moment ago. There is a query only when the
    generation has changed, is dirty, missing or unreachable, or when the copy is older than CONFIG_CACHE_TTL. A caller
    that has a database connection passes ``early``, so the other threads need no connection. An unusable configuration
    (a lost key, a damaged row) gives ``Nowhere`` too, and an error in the log.
    """
    longest = conf.get("CONFIG_CACHE_TTL") * (_EARLY if early else 1.0)
    for _ in range(_TRIES):
        current = generation.read()  # read before the row, so the content of a copy is never older than its generation
        copy, asked_at = _copy, time.monotonic()
        if copy is not None and copy.generation == current and asked_at - copy.read_at < longest:
            return copy.route
        route = _read(current, asked_at)
        if generation.is_recent(asked_at):
            return route
        # The row may have changed since. The generation, or another read of the row, shows this.
    logger.warning("The shared cache and the database take longer than %s s to answer.", generation.PROMPT)
    return route


@with_secrets
def _read(current: str | None, asked_at: float) -> Route:
    """Read the active route from the database, and keep it under the ``current`` generation."""
    route = _from_database()
    kept = None if _copy is None else _copy.route
    if isinstance(route, Relay) and isinstance(kept, Relay) and route == kept and route.tokens is kept.tokens:
        route = kept  # keep the same object: comparing two is slow, and each mail does so several times
    _say_switched(route)
    if current is not None and not transaction.get_connection(SMTPConfig.objects.db).in_atomic_block:
        _keep(_Copy(generation=current, route=route, read_at=asked_at))
    return route


def _from_database() -> Route:
    pause = SendingPause.current()  # from the primary, like the next one: a replica may lag behind the generation
    if pause is not None:
        why = f": {pause.reason}" if pause.reason else ""
        return Nowhere(cause=Cause.PAUSED, reason=f"sending is paused{why}")
    return configured_route()


@with_secrets
def configured_route() -> Route:
    """Return the route of the stored settings, without regard to a pause. It is read from the database each time."""
    try:
        config = SMTPConfig.objects.get_active_config()
    except SMTPConfig.MultipleObjectsReturned:
        logger.error(TWO_ACTIVE)
        return Nowhere(cause=Cause.UNUSABLE, reason=TWO_ACTIVE)
    if config is None:
        return settings_relay()
    if config.defect:
        return _unusable(config, config.defect)
    try:
        return relay_of(config)
    except SecretUnavailable as error:
        return _unusable(config, error)


def _unusable(config: SMTPConfig, why: object) -> Nowhere:
    with translation.override(None):  # for logs and rows, which are not in a reader's language
        reason = f"“{config.name}” cannot be used: {why}"
    logger.error("The active SMTP configuration %s", reason)
    return Nowhere(cause=Cause.UNUSABLE, reason=reason, name=config.name, host=config.host)


def forget() -> None:
    """Drop this process's copy, its generation, and the secrets that it has read."""
    generation.forget()
    references.forget()
    _keep(None)


def _say_switched(route: Route) -> None:
    """Log a switch of this process to another configuration."""
    global _last  # the one of this process
    now = (route.name, route.reason) if isinstance(route, Nowhere) else (route.name, route.version)
    last, _last = _last, now
    if last == now or last is None:
        return
    if isinstance(route, Nowhere):
        logger.warning("No mail is sent from now on: %s", route.reason, extra={"reason": route.reason})
    else:
        logger.info("Mail is sent through %s from now on.", route.name, extra={"configuration": route.name})


def _keep(copy: _Copy | None) -> None:
    global _copy  # the one copy of this process
    _copy = copy


@with_secrets
def password_is_elsewhere(relay: Relay) -> bool:
    """Return whether the password of ``relay``, the active one, is stored elsewhere."""
    config = _config_of(relay)
    return config is not None and config.password_kind != ""


@with_secrets
def password_has_changed(relay: Relay) -> bool:
    """Return whether the refused password of ``relay``, the active one, is stored elsewhere and has changed there.

    If it has, the next call for the active relay returns it with the new password.
    """
    config = _config_of(relay)
    try:
        changed = config is not None and references.renew(config.password, refused=relay.password)
    except SecretUnreadable:
        return False
    if changed:
        _keep(None)
        logger.info("The password that %s refers to has changed.", relay.name, extra={"configuration": relay.name})
    return changed


def _config_of(relay: Relay) -> SMTPConfig | None:
    return SMTPConfig.objects.filter(is_active=True, name=relay.name).first()


@with_secrets
def relay_of(config: SMTPConfig, *, anew: bool = False, keeps_token: bool = True) -> Relay:
    """Return ``config`` as a relay. With ``anew``, a password that is stored elsewhere is read again, not from a copy.

    ``keeps_token`` is False for settings that are only tested: their token is not stored for mail. Raises
    ``SecretUnreadable`` when a secret cannot be decrypted, ``SecretUnavailable`` when it cannot be read.
    """
    by_password = config.authentication == Authentication.PASSWORD
    return Relay(
        name=config.name,
        host=config.host,
        port=config.port,
        username="" if config.authentication == Authentication.NONE else config.username,
        password=references.resolve(config.password, anew=anew) if by_password else "",
        use_tls=config.use_tls,
        use_ssl=config.use_ssl,
        ca_certificates=config.ca_certificates,
        ehlo_name=config.ehlo_name,
        version=config.version,
        from_email=config.from_email,
        timeout=min(float(config.timeout), validators.longest_timeout()),
        pipelining=config.pipelining != PipeliningChoice.OFF,
        max_recipients=config.max_recipients,
        max_connections=config.max_connections,
        tokens=_tokens_of(config, kept=keeps_token) if config.by_token else None,
        account=token_digest(config) if config.by_token else "",
    )


@with_secrets
def account_of(config: SMTPConfig) -> Account:
    """Return the account of ``config`` at its token endpoint. Raises ``SecretUnreadable`` for an unreadable secret."""
    return Account(
        endpoint=config.oauth_endpoint,
        grant=config.oauth_grant,
        client_id=config.oauth_client_id,
        client_secret=config.oauth_client_secret,
        scope=config.oauth_scope,
        refresh_token=config.oauth_refresh_token,
        private_key=config.oauth_private_key,
        mailbox=config.username,
    )


def _tokens_of(config: SMTPConfig, *, kept: bool) -> StoredTokens:
    return StoredTokens(account_of(config), pk=config.pk if kept else None, digest=token_digest(config))
