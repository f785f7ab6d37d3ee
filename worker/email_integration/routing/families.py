"""Showing a refresh token to its endpoint: the newest of its family, by one process at a time, and kept at once.

An endpoint may give another refresh token with each access token and end the one that it was shown. One that sees an
old one again takes it for stolen and ends them all (RFC 9700 §4.14.2). So all asking, for whatever settings, is done
here, and only where what comes of it can be kept.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
import secrets
import threading
import time
from collections import deque
from concurrent.futures import Future
from urllib.parse import urlsplit

from django.db import DatabaseError, connections, models, router, transaction
from django.db.models import Q
from django.utils import timezone

from email_integration import references
from email_integration.exceptions import SecretUnreadable
from email_integration.models import Grant, RefreshFamily
from email_integration.savepoints import savepoint
from email_integration.secrecy import with_secrets
from email_integration.smtp import NoToken, Phase

from . import token_endpoint
from .token_endpoint import PATIENCE, Account, Granted, TokenRefused

logger = logging.getLogger(__name__)

#: For how long no other process shows it, in seconds: longer than asking takes, with secrets that are kept elsewhere.
_LEASE = 6 * PATIENCE

#: How long the others wait, and how often they look, in seconds.
_WAIT = PATIENCE + 5.0
_LOOK = 0.1

#: After so long without use a refresh token has ended at every provider.
_FORGOTTEN_AFTER = dt.timedelta(days=400)

# What this process has received and the database did not take.
_unwritten: deque[tuple[str, str, dt.datetime]] = deque()

_NOT_KEPT = "a new refresh token cannot be kept now, so none is asked for"


@with_secrets
def fetch(account: Account) -> Granted:
    """Ask for an access token; with a refresh token, by the newest of its family. Raises ``NoToken``.

    In a caller's transaction that is done in a thread, on a connection of its own: the endpoint has ended the old one
    also where the transaction is rolled back. SQLite lets no other connection write meanwhile, so there it is refused.
    """
    if account.grant != Grant.REFRESH_TOKEN:
        return token_endpoint.fetch(account)
    connection = transaction.get_connection(_database())
    if not connection.in_atomic_block:
        return _fetch(account)
    if connection.vendor == "sqlite":
        raise NoToken(Phase.AUTH, f"{_NOT_KEPT}: the caller's transaction is open")
    answer: Future[Granted] = Future()

    def run() -> None:
        try:
            answer.set_result(_fetch(account))
        except BaseException as error:
            answer.set_exception(error)
        finally:
            connections.close_all()  # those of this thread

    threading.Thread(target=run, name="refresh token", daemon=True).start()
    return answer.result()


@with_secrets
def _fetch(account: Account) -> Granted:
    first = token_endpoint.resolved(account).refresh_token
    if not first:
        return token_endpoint.fetch(account)  # which says what is missing
    try:
        return _fetch_by(first, account)
    except TokenRefused:
        if not references.renew(account.refresh_token, refused=first):
            raise
    # Another one has been put there.
    return _fetch_by(token_endpoint.resolved(account).refresh_token, account)


@with_secrets
def _fetch_by(first: str, account: Account) -> Granted:
    """Ask with the newest that came of ``first``."""
    provider = _provider(account.endpoint)
    try:
        _keep_what_could_not_be_kept()
        family, lease = _take(RefreshFamily.fingerprint_of(first))
    except DatabaseError as error:
        raise NoToken(Phase.AUTH, f"{_NOT_KEPT} ({type(error).__name__})") from error
    try:
        shown = _newest(family, provider) or first
        _rows().filter(pk=family.pk).update(provider=provider)
        # Later than the one before, also where the clock of another host is ahead.
        asked_at = timezone.now()
        if family.asked_at is not None:
            asked_at = max(asked_at, family.asked_at + dt.timedelta.resolution)
        granted = token_endpoint.fetch(dataclasses.replace(account, refresh_token=references.as_password(shown)))
        keep(family.pk, granted, asked_at=asked_at)
        return granted
    except TokenRefused:
        _forget_unused(family.pk)
        raise
    finally:
        _rows().filter(pk=family.pk, lease=lease).update(lease="", lease_until=None)


@with_secrets
def keep(fingerprint: str, granted: Granted, *, asked_at: dt.datetime) -> None:
    """Keep the refresh token that came with ``granted``, unless one that was asked for later is kept already.

    Never raises for the database: what it does not take is kept in this process until it does.
    """
    try:
        with savepoint(_rows().db):
            _write(fingerprint, granted.refresh_token, asked_at)
    except DatabaseError as error:
        logger.error("A new refresh token cannot be written now (%s). It is kept in memory.", type(error).__name__)
        _unwritten.append((fingerprint, granted.refresh_token, asked_at))


@with_secrets
def _write(fingerprint: str, newest: str, asked_at: dt.datetime) -> None:
    rows = _rows().filter(pk=fingerprint)
    rows.update(used_at=timezone.now())
    if newest:
        rows.filter(Q(asked_at=None) | Q(asked_at__lt=asked_at)).update(newest=newest, asked_at=asked_at)


@with_secrets
def _keep_what_could_not_be_kept() -> None:
    """Write what is in memory. Raises ``DatabaseError``, and then it stays there."""
    while _unwritten:
        _write(*_unwritten[0])
        _unwritten.popleft()


@with_secrets
def _newest(family: RefreshFamily, provider: str) -> str:
    """The newest that was received, '' if none was. Raises ``NoToken`` where it must not be shown."""
    try:
        newest = str(family.newest)
    except SecretUnreadable:
        words = "the newest refresh token cannot be opened with the keys in SMTP_PASSWORD_KEYS"
        raise NoToken(Phase.AUTH, f"{words}: put its key back, or ask the owner of the mailbox for consent") from None
    if newest and family.provider != provider:
        # Who knows the first one need not know this one, and would have it sent to a host of their own.
        words = "the refresh token has been replaced by one of another host"
        raise NoToken(Phase.AUTH, f"{words}: ask the owner of the mailbox for consent")
    return newest


def _provider(endpoint: str) -> str:
    """Host and port of a token endpoint, whether its URL names the port or not."""
    parts = urlsplit(endpoint)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:  # no number, and nothing is sent there
        port = 0
    return f"{parts.hostname or ''}:{port}"[:300]


@with_secrets
def _take(fingerprint: str) -> tuple[RefreshFamily, str]:
    """Get the lease of a family, made where there is none, and the family as it is then. Raises ``NoToken``."""
    lease, until = secrets.token_hex(16), time.monotonic() + _WAIT
    while time.monotonic() < until:
        _, is_new = _rows().get_or_create(pk=fingerprint)
        if is_new:
            _rows().filter(used_at__lt=timezone.now() - _FORGOTTEN_AFTER).delete()
        now = timezone.now()
        free = _rows().filter(Q(lease_until=None) | Q(lease_until__lte=now), pk=fingerprint)
        if free.update(lease=lease, lease_until=now + dt.timedelta(seconds=_LEASE)):
            family = _rows().filter(pk=fingerprint).first()
            if family is not None:
                return family, lease
        time.sleep(_LOOK)
    raise NoToken(Phase.AUTH, "another process is showing the refresh token, and it takes long")


@with_secrets
def _forget_unused(fingerprint: str) -> None:
    """Leave nothing of a text that never was a refresh token: it may be a password, in the wrong field."""
    _rows().filter(pk=fingerprint, used_at=None, asked_at=None).delete()


def _rows() -> models.QuerySet[RefreshFamily]:
    return RefreshFamily.objects.using(_database())


def _database() -> str:
    return router.db_for_write(RefreshFamily)
