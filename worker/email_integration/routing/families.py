"""Showing a refresh token to its endpoint: the newest of its family, by one process at a time, and kept at once.

An endpoint may give another refresh token with each access token and end the one that it was shown. One that sees an
old one again takes it for stolen and ends them all (RFC 9700 §4.14.2). So all asking, for whatever settings, is done
here, and only where what comes of it can be kept.
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

#: Seconds that an answer is waited for, though mail does not wait so long: the endpoint may have ended the old token.
_LATEST = 3 * PATIENCE

#: How long the others wait, and how often they look, in seconds; and how often what the database did not take is
#: written again.
_WAIT = PATIENCE + 5.0
_LOOK = 0.1
_AGAIN = 1.0

#: After so long without use a refresh token has ended at every provider.
_FORGOTTEN_AFTER = dt.timedelta(days=400)

# What this process has received and the database did not take: the arguments of ``_write``.
_unwritten: deque[tuple[str, str, str, dt.datetime]] = deque()

_NOT_KEPT = "a new refresh token cannot be kept now, so none is asked for"


@with_secrets
def fetch(account: Account) -> Granted:
    """Ask for an access token; with a refresh token, by the newest of its family. Raises ``NoToken``.

    That is done in a thread, on a connection of its own: the endpoint has ended the old one also where the caller's
    transaction is rolled back, where its time is over, or where it waits no longer. SQLite lets no other connection
    write in a transaction, so there it is refused.
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
    """One asking. Python waits for it when it ends, so that no answer is lost that may still come."""

    def __init__(self, account: Account) -> None:
        super().__init__(name="refresh token", daemon=False)
        self._account = account
        self._has_begun = threading.Event()
        self._answer: Future[Granted] = Future()

    @with_secrets
    def granted(self) -> Granted:
        """Wait for the answer as long as mail may have to wait. Raises ``NoToken``."""
        self._has_begun.wait()
        try:
            return self._answer.result(token_endpoint.PATIENCE)
        except TimeoutError:
            host = urlsplit(self._account.endpoint).hostname
            words = f"the token endpoint {host} does not answer (no answer in time)"
            raise NoToken(Phase.AUTH, words) from None

    @with_secrets
    def run(self) -> None:
        """Ask, and keep what comes; the answer is the caller's, if it is still there."""
        try:
            granted = self._ask()
            if not self._answer.done():
                self._answer.set_result(granted)
        except BaseException as error:
            if not self._answer.done():
                self._answer.set_exception(error)
        finally:
            self._has_begun.set()
            connections.close_all()  # those of this thread

    @with_secrets
    def _ask(self) -> Granted:
        first = token_endpoint.resolved(self._account).refresh_token
        if not first:
            return token_endpoint.fetch(self._account)  # which says what is missing
        try:
            return self._ask_by(first)
        except TokenRefused:
            if not references.renew(self._account.refresh_token, refused=first):
                raise
        # Another one has been put there.
        return self._ask_by(token_endpoint.resolved(self._account).refresh_token)

    @with_secrets
    def _ask_by(self, first: str) -> Granted:
        """Ask with the newest that came of ``first``."""
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
            # Later than the one before, also where the clock of another host is ahead.
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
    """Keep ``newest``, if there is one, unless one that was asked for later is kept already.

    Never raises for the database: what it does not take is kept in this process until it does.
    """
    try:
        with savepoint(RefreshFamily.objects.db):
            _write(fingerprint, newest, provider, asked_at)
    except DatabaseError as error:
        logger.error("A new refresh token cannot be written now (%s). It is kept in memory.", type(error).__name__)
        _unwritten.append((fingerprint, newest, provider, asked_at))


@with_secrets
def _write(fingerprint: str, newest: str, provider: str, asked_at: dt.datetime) -> None:
    rows = RefreshFamily.objects.filter(pk=fingerprint)
    if newest:
        # It may have been deleted meanwhile.
        RefreshFamily.objects.get_or_create(pk=fingerprint, defaults={"provider": provider})
        rows.filter(Q(asked_at=None) | Q(asked_at__lt=asked_at)).update(newest=newest, asked_at=asked_at)
    rows.update(used_at=timezone.now())


def _give_back(fingerprint: str, lease: str) -> None:
    """Let others show it, once what has come is written; in vain where that takes longer than the lease."""
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
    """For how long no other process shows it: longer than asking takes, twice, with secrets that are kept elsewhere."""
    return dt.timedelta(seconds=2 * _LATEST + 6 * conf.get("SECRET_TIMEOUT"))


@with_secrets
def _keep_what_could_not_be_kept() -> None:
    """Write what is in memory. Raises ``DatabaseError``, and then it stays there."""
    for one in tuple(_unwritten):
        _write(*one)
        with contextlib.suppress(ValueError):  # another thread has written it too
            _unwritten.remove(one)


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
    raise NoToken(Phase.AUTH, "another process is showing the refresh token, and it takes long")


@with_secrets
def _forget_unused(fingerprint: str, lease: str) -> None:
    """Leave nothing of a text that never was a refresh token: it may be a password, in the wrong field."""
    RefreshFamily.objects.filter(pk=fingerprint, lease=lease, used_at=None, asked_at=None).delete()
