"""Requests with refresh tokens: with the newest of a family, by one process at a time, and stored at once.

An endpoint may return another refresh token with each access token, and end the one that was sent. When it receives an
old one again, it assumes theft and ends them all (RFC 9700 §4.14.2). Therefore all requests, for any settings, are made
here, and only when their result can be stored.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import logging
import secrets
import threading
import time
from collections import deque
from concurrent.futures import Future
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError
from django.db import connections, transaction
from django.db.models import Q
from django.utils import timezone

from email_integration import conf, references
from email_integration.exceptions import SecretUnreadable
from email_integration.fields import newest_key
from email_integration.models import Grant, RefreshFamily
from email_integration.savepoints import savepoint
from email_integration.secrecy import with_secrets
from email_integration.smtp import NoToken, Phase

from . import token_endpoint
from .token_endpoint import PATIENCE, Account, Granted, NoAccessToken, TokenRefused

logger = logging.getLogger(__name__)

#: Maximum wait for an answer, in seconds, longer than mail waits: the endpoint may have ended the old token already.
_LATEST = 3 * PATIENCE

#: How long the other processes wait, and how often they check, in seconds; and how often a failed write to the database
#: is repeated.
_WAIT = PATIENCE + 5.0
_LOOK = 0.1
_AGAIN = 1.0

#: After this time without use a refresh token has expired at every provider.
_FORGOTTEN_AFTER = dt.timedelta(days=400)

# Received tokens that the database did not store: the arguments of ``_write``.
_unwritten: deque[tuple[str, str, str, dt.datetime]] = deque()

_NOT_KEPT = "a new refresh token cannot be stored now, so none is requested"


@with_secrets
def fetch(account: Account) -> Granted:
    """Request an access token; with a refresh token, by the newest of its family. Raises ``NoToken``.

    The request runs in a separate thread and on a separate connection: the endpoint ends the old token even when the
    caller's transaction is rolled back, its time limit ends, or it stops waiting. SQLite allows no write on another
    connection during a transaction, so the request is refused there.
    """
    if account.grant != Grant.REFRESH_TOKEN:
        return token_endpoint.fetch(account)
    connection = transaction.get_connection(RefreshFamily.objects.db)
    if connection.in_atomic_block and connection.vendor == "sqlite":
        raise NoToken(Phase.AUTH, f"{_NOT_KEPT}: the caller's transaction is open")
    asking = _Asking(account)
    asking.start()
    return asking.granted()


class _Asking(threading.Thread):
    """A thread for one request. Python waits for it at exit, so an answer that still arrives is not lost."""

    def __init__(self, account: Account) -> None:
        super().__init__(name="refresh token", daemon=False)
        self._account = account
        self._has_begun = threading.Event()
        self._answer: Future[Granted] = Future()

    @with_secrets
    def granted(self) -> Granted:
        """Wait for the answer up to ``PATIENCE`` seconds. Raises ``NoToken``."""
        self._has_begun.wait()
        try:
            return self._answer.result(token_endpoint.PATIENCE)
        except TimeoutError:
            host = urlsplit(self._account.endpoint).hostname
            words = f"the token endpoint {host} could not be reached (no answer in time)"
            raise NoToken(Phase.AUTH, words) from None

    @with_secrets
    def run(self) -> None:
        """Make the request and store the result; give it to the caller, if the caller still waits."""
        try:
            granted = self._ask()
            if not self._answer.done():
                self._answer.set_result(granted)
        except BaseException as error:
            if not self._answer.done():
                self._answer.set_exception(error)
        finally:
            self._has_begun.set()
            connections.close_all()  # the connections of this thread

    @with_secrets
    def _ask(self) -> Granted:
        first = token_endpoint.resolved(self._account).refresh_token
        if not first:
            return token_endpoint.fetch(self._account)  # it raises an error that says what is missing
        try:
            return self._ask_by(first)
        except TokenRefused:
            if not references.renew(self._account.refresh_token, refused=first):
                raise
        # The stored reference now gives another token.
        return self._ask_by(token_endpoint.resolved(self._account).refresh_token)

    @with_secrets
    def _ask_by(self, first: str) -> Granted:
        """Make the request with the newest token of the family of ``first``."""
        provider = _provider(self._account.endpoint)
        try:
            newest_key()
            _keep_what_could_not_be_kept()
            family, lease = _take(RefreshFamily.fingerprint_of(first))
        except (DatabaseError, ImproperlyConfigured) as error:
            raise NoToken(Phase.AUTH, f"{_NOT_KEPT} ({type(error).__name__})") from error
        try:
            shown = _newest(family, provider) or first
            RefreshFamily.objects.filter(pk=family.pk).update(provider=provider)
            # Later than the previous request, even if the clock of another host is ahead.
            asked_at = timezone.now()
            if family.asked_at is not None:
                asked_at = max(asked_at, family.asked_at + dt.timedelta.resolution)
            asked = dataclasses.replace(self._account, refresh_token=references.as_password(shown))
            self._has_begun.set()
            try:
                granted = token_endpoint.fetch(asked, patience=_LATEST)
            except NoAccessToken as refused:
                if refused.refresh_token:
                    keep(family.pk, refused.refresh_token, provider=provider, asked_at=asked_at)
                elif isinstance(refused, TokenRefused):
                    _forget_unused(family.pk, lease)
                raise
            keep(family.pk, granted.refresh_token, provider=provider, asked_at=asked_at)
            if _unwritten:
                self._answer.set_result(granted)  # mail need not wait until it is written
            return granted
        finally:
            _give_back(family.pk, lease)


@with_secrets
def keep(fingerprint: str, newest: str, *, provider: str, asked_at: dt.datetime) -> None:
    """Store ``newest``, if it is not '', unless the token of a later request is stored already.

    Never raises for the database: a failed write is kept in this process until it succeeds.
    """
    try:
        with savepoint(RefreshFamily.objects.db):
            _write(fingerprint, newest, provider, asked_at)
    except DatabaseError as error:
        logger.error("A new refresh token could not be stored (%s). It is kept in memory.", type(error).__name__)
        _unwritten.append((fingerprint, newest, provider, asked_at))


@with_secrets
def _write(fingerprint: str, newest: str, provider: str, asked_at: dt.datetime) -> None:
    rows = RefreshFamily.objects.filter(pk=fingerprint)
    if newest:
        # The row may have been deleted meanwhile.
        RefreshFamily.objects.get_or_create(pk=fingerprint, defaults={"provider": provider})
        rows.filter(Q(asked_at=None) | Q(asked_at__lt=asked_at)).update(newest=newest, asked_at=asked_at)
    rows.update(used_at=timezone.now())


def _give_back(fingerprint: str, lease: str) -> None:
    """End the lease once the result is written, so others may use the token; give up when the lease's time is over."""
    until = time.monotonic() + _lease().total_seconds()
    while time.monotonic() < until:
        try:
            _keep_what_could_not_be_kept()
            RefreshFamily.objects.filter(pk=fingerprint, lease=lease).update(lease="", lease_until=None)
            return
        except DatabaseError:
            connections[RefreshFamily.objects.db].close()
            time.sleep(_AGAIN)


def _lease() -> dt.timedelta:
    """Return how long no other process uses it: more than two requests take, with secrets that are stored elsewhere."""
    return dt.timedelta(seconds=2 * _LATEST + 6 * conf.get("SECRET_TIMEOUT"))


@with_secrets
def _keep_what_could_not_be_kept() -> None:
    """Write the tokens in memory. Raises ``DatabaseError``, and they then stay in memory."""
    for one in tuple(_unwritten):
        _write(*one)
        with contextlib.suppress(ValueError):  # another thread has written it too
            _unwritten.remove(one)


@with_secrets
def _newest(family: RefreshFamily, provider: str) -> str:
    """Return the newest received token, or '' for none. Raises ``NoToken`` if it must not be sent to ``provider``."""
    try:
        newest = str(family.newest)
    except SecretUnreadable:
        words = "the newest refresh token cannot be decrypted with the keys in SMTP_PASSWORD_KEYS"
        raise NoToken(Phase.AUTH, f"{words}: add its key again, or ask the owner of the mailbox for consent") from None
    if newest and family.provider != provider:
        # A person who knows the first token need not know this one, and could have it sent to another host.
        words = "the refresh token has been replaced by a token of another host"
        raise NoToken(Phase.AUTH, f"{words}: ask the owner of the mailbox for consent")
    return newest


def _provider(endpoint: str) -> str:
    """Return host and port of a token endpoint, whether or not its URL contains the port."""
    parts = urlsplit(endpoint)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:  # the port is not a number, and nothing is sent there
        port = 0
    return f"{parts.hostname or ''}:{port}"[:300]


@with_secrets
def _take(fingerprint: str) -> tuple[RefreshFamily, str]:
    """Take the lease of a family, and make the family if it is new; return both. Raises ``NoToken``."""
    lease, until = secrets.token_hex(16), time.monotonic() + _WAIT
    while time.monotonic() < until:
        _, is_new = RefreshFamily.objects.get_or_create(pk=fingerprint)
        if is_new:
            RefreshFamily.objects.filter(used_at__lt=timezone.now() - _FORGOTTEN_AFTER).delete()
        now = timezone.now()
        free = RefreshFamily.objects.filter(Q(lease_until=None) | Q(lease_until__lte=now), pk=fingerprint)
        if free.update(lease=lease, lease_until=now + _lease()):
            family = RefreshFamily.objects.filter(pk=fingerprint).first()
            if family is not None:
                return family, lease
        time.sleep(_LOOK)
    raise NoToken(Phase.AUTH, "another process is using the refresh token and has not finished in time")


@with_secrets
def _forget_unused(fingerprint: str, lease: str) -> None:
    """Delete the family of a text that was never a valid refresh token: it may be a password in the wrong field."""
    RefreshFamily.objects.filter(pk=fingerprint, lease=lease, used_at=None, asked_at=None).delete()
