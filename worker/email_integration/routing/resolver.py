"""The active relay, asked for at every attempt and answered from a copy while the generation allows it."""

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

TWO_ACTIVE = "several SMTP configurations are active, and only one may be; deactivate the others"


#: How often it is asked again, at most, for answers that took too long.
_TRIES = 3

#: After which part of CONFIG_CACHE_TTL a copy is made anew ``early``.
_EARLY = 0.8


@dataclass(frozen=True, kw_only=True)
class _Copy:
    generation: str
    route: Route
    read_at: float


# One per process: what was read, under which generation, when. Replaced whole, so readers need no lock.
_copy: _Copy | None = None

# What was read last, to see a switch.
_last: tuple[str, str] | None = None


def active_relay(*, early: bool = False) -> Route:
    """Return the relay of the active ``SMTPConfig``, else that of Django's settings, else ``Nowhere``.

    It was active a moment ago, other than where the cache and the database are both too slow to say so.

    Costs one read of the shared cache, unless there was one a moment ago; a query only when the generation has changed,
    is dirty, absent or out of reach, or the copy is older than CONFIG_CACHE_TTL. A caller that has a connection to the
    database asks ``early``, so that the threads beside it need none. What cannot be used (a lost key, a damaged row) is
    ``Nowhere`` too, and an error in the log.
    """
    longest = conf.get("CONFIG_CACHE_TTL") * (_EARLY if early else 1.0)
    for _ in range(_TRIES):
        current = generation.read()  # before the row: a copy is never newer by its generation than by its content
        copy, asked_at = _copy, time.monotonic()
        if copy is not None and copy.generation == current and asked_at - copy.read_at < longest:
            return copy.route
        route = _read(current, asked_at)
        if generation.is_recent(asked_at):
            return route
        # The row may have changed since. The generation says so, or reading the row again.
    logger.warning("The shared cache and the database take longer than %s s to answer.", generation.PROMPT)
    return route


@with_secrets
def _read(current: str | None, asked_at: float) -> Route:
    """Read what is active from the database, and keep it under the ``current`` generation."""
    route = _from_database()
    kept = None if _copy is None else _copy.route
    if isinstance(route, Relay) and isinstance(kept, Relay) and route == kept and route.tokens is kept.tokens:
        route = kept  # the same object: to compare two takes a while, and each mail does so several times
    _say_switched(route)
    if current is not None and not transaction.get_connection(SMTPConfig.objects.db).in_atomic_block:
        _keep(_Copy(generation=current, route=route, read_at=asked_at))
    return route


def _from_database() -> Route:
    pause = SendingPause.current()  # of the primary, as is the next: a replica may lag behind the generation
    if pause is not None:
        why = f": {pause.reason}" if pause.reason else ""
        return Nowhere(cause=Cause.PAUSED, reason=f"sending is paused{why}")
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
    with translation.override(None):  # for logs and rows, which have no reader with a language
        reason = f"“{config.name}” cannot be used: {why}"
    logger.error("The active SMTP configuration %s", reason)
    return Nowhere(cause=Cause.UNUSABLE, reason=reason, name=config.name, host=config.host)


def forget() -> None:
    """Drop this process's copy, its generation, and the secrets that it has read."""
    generation.forget()
    references.forget()
    _keep(None)


def _say_switched(route: Route) -> None:
    """Have the log tell when this process goes by another configuration."""
    global _last  # the one of this process
    now = (route.name, route.reason) if isinstance(route, Nowhere) else (route.name, route.version)
    last, _last = _last, now
    if last == now or last is None:
        return
    if isinstance(route, Nowhere):
        logger.warning("No mail is sent from now on: %s", route.reason, extra={"reason": route.reason})
    else:
        logger.info("Mail goes by %s from now on.", route.name, extra={"configuration": route.name})


def _keep(copy: _Copy | None) -> None:
    global _copy  # the one copy of this process
    _copy = copy


@with_secrets
def password_is_elsewhere(relay: Relay) -> bool:
    """Whether the password of ``relay``, the active one, is kept elsewhere."""
    config = _config_of(relay)
    return config is not None and config.password_kind != ""


@with_secrets
def password_has_changed(relay: Relay) -> bool:
    """Whether the password of ``relay``, the active one, which its server has refused, is kept elsewhere and another by
    now. The next to ask for the active relay gets it with the new one.
    """
    config = _config_of(relay)
    try:
        changed = config is not None and references.renew(config.password, refused=relay.password)
    except SecretUnreadable:
        return False
    if changed:
        _keep(None)
        logger.info("%s has another password where it is kept.", relay.name, extra={"configuration": relay.name})
    return changed


def _config_of(relay: Relay) -> SMTPConfig | None:
    return SMTPConfig.objects.filter(is_active=True, name=relay.name).first()


@with_secrets
def relay_of(config: SMTPConfig, *, anew: bool = False, keeps_token: bool = True) -> Relay:
    """Return ``config`` as a relay; a password that is kept elsewhere is asked for ``anew``, or may be known already.

    ``keeps_token`` is False for settings that are only tried: their token is not the one that mail goes by. Raises
    ``SecretUnreadable`` when a secret cannot be opened, ``SecretUnavailable`` when it cannot be had.
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
    )


@with_secrets
def account_of(config: SMTPConfig) -> Account:
    """What ``config`` asks for tokens with. Raises ``SecretUnreadable`` when a secret cannot be opened."""
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
