"""The access tokens of a configuration: stored in the database for all processes, fetched by one process at a time.

Every new session asks here. A token near its expiry is fetched again by the process that gets the lease, by a
conditional write. The other processes use the old token while it is valid; otherwise they wait for the new one.
"""

from __future__ import annotations

import datetime as dt
import secrets
import time

from django.db import models, transaction
from django.db.models import Q
from django.utils import timezone

from email_integration.models import OAuthToken, SMTPConfig
from email_integration.outcomes.causes import Cause
from email_integration.secrecy import with_secrets
from email_integration.smtp import NoToken, Phase

from . import breaker, families
from .token_endpoint import PATIENCE, Account, Granted

#: Time for which no other process fetches, in seconds: longer than fetching takes.
_LEASE = 5 * PATIENCE

#: How long the other processes wait for the fetch, and how often they check, in seconds.
_WAIT = PATIENCE + 5.0
_LOOK = 0.1

#: How long a failed endpoint is not asked while its last token is still valid, in seconds.
_LEFT_ALONE = 60.0


class StoredTokens:
    """The tokens of one configuration: ``email_integration.smtp.TokenSource`` for its relay.

    ``pk`` is the configuration's; with None nothing is stored, for settings that are only tested. ``digest`` identifies
    its settings.
    """

    def __init__(self, account: Account, *, pk: int | None, digest: str) -> None:
        self._account = account
        self._pk = pk
        self._digest = digest

    @with_secrets
    def current(self) -> str:
        """Return the valid token, and fetch one if needed. Raises ``NoToken``."""
        row = self._read()
        now = timezone.now()
        if row is not None and not row.is_old(now) and (token := row.usable(now)):
            return token
        return self._fetched(refused=None)

    @with_secrets
    def another(self, refused: str = "") -> str | None:
        """Return a token other than ``refused``, a new one unless another process fetched it. Raises ``NoToken``."""
        return self._fetched(refused=refused)

    def _fetched(self, *, refused: str | None) -> str:
        """Return a token fetched by this process, or by another one meanwhile. Raises ``NoToken``.

        ``refused`` is a token that is no longer valid; '' means the stored one, whatever it is; None keeps an old token
        while it lasts.
        """
        if self._pk is None:
            return families.fetch(self._account).access_token
        if transaction.get_connection(OAuthToken.objects.db).in_atomic_block:
            return self._fetched_in_transaction(refused=refused)
        began, until = timezone.now(), time.monotonic() + _WAIT
        while time.monotonic() < until:
            row, now = self._row(), timezone.now()
            token = row.usable(now)
            # Another process may have fetched one since it was found missing, or during the wait.
            is_new = row.fetched_at is not None and row.fetched_at >= began
            is_other = token != refused if refused else refused is None and not row.is_old(now)
            if token and (is_new or is_other):
                return token
            kept = token if refused is None else ""
            if row.failed_at is not None and row.failed_at > _not_before(began, now, kept=kept, refused=refused):
                if kept:
                    return kept
                raise NoToken(Phase.AUTH, row.error)
            if (lease := self._take(row, now)) is not None:
                return self._fetch_under(lease, row, kept=kept)
            if kept:
                return kept
            time.sleep(_LOOK)
        raise NoToken(Phase.AUTH, "another process is fetching the OAuth token and has not finished in time")

    def _fetch_under(self, lease: str, row: OAuthToken, *, kept: str) -> str:
        asked_at = timezone.now()
        mine = OAuthToken.objects.filter(pk=self._pk, lease=lease)
        try:
            granted = families.fetch(self._account)
        except NoToken as failure:
            mine.update(failed_at=timezone.now(), error=failure.detail[:255], **_FREE)
            if kept:
                return kept
            raise
        except BaseException:
            mine.update(**_FREE)
            raise
        mine.update(**_stored(granted, asked_at))
        self._keep_end(granted)
        return granted.access_token

    def _fetched_in_transaction(self, *, refused: str | None) -> str:
        """Return a token for a caller of the direct backend that has an open transaction. Raises ``NoToken``.

        The transaction may stay open for long, and no process should wait for its end. Therefore there is no lease, and
        the fetched token is stored after the commit.
        """
        row, asked_at = self._read(), timezone.now()
        token = row.usable(asked_at) if row is not None else ""
        if token and (refused is None or (refused and token != refused)):
            return token
        granted = families.fetch(self._account)

        @with_secrets
        def keep() -> None:
            self._row()
            OAuthToken.objects.filter(pk=self._pk, settings=self._digest).update(**_stored(granted, asked_at))
            self._keep_end(granted)

        transaction.on_commit(keep, using=OAuthToken.objects.db, robust=True)
        return granted.access_token

    def _keep_end(self, granted: Granted) -> None:
        """Store the expiry of the certificate in the configuration; it may change if the key is stored elsewhere."""
        ends = granted.certificate_ends
        if ends is not None and self._pk is not None:
            # Not update() of this app: no setting of the relay has changed.
            configs: models.QuerySet[SMTPConfig] = models.QuerySet(SMTPConfig, using=SMTPConfig.objects.db)
            configs.filter(pk=self._pk).exclude(oauth_secret_ends=ends).update(oauth_secret_ends=ends)

    # -- the row ------------------------------------------------------------------------------------------------

    def _read(self) -> OAuthToken | None:
        """Return the row of these settings, if there is one."""
        return OAuthToken.objects.filter(pk=self._pk, settings=self._digest).first() if self._pk is not None else None

    def _row(self) -> OAuthToken:
        """Return the row of these settings; make an empty one if there is none, or one of other settings."""
        row = self._read()
        if row is not None:
            return row
        OAuthToken.objects.filter(pk=self._pk).exclude(settings=self._digest).update(settings=self._digest, **_EMPTY)
        row, _ = OAuthToken.objects.get_or_create(pk=self._pk, defaults={"settings": self._digest})
        return row if row.settings == self._digest else self._row()  # a process with other settings wrote in between

    def _take(self, row: OAuthToken, now: dt.datetime) -> str | None:
        """Take the lease, unless another process has it, or has fetched since ``row`` was read."""
        lease = secrets.token_hex(16)
        free = OAuthToken.objects.filter(
            Q(lease_until=None) | Q(lease_until__lte=now), pk=self._pk, settings=self._digest
        )
        same = free.filter(fetched_at=row.fetched_at, failed_at=row.failed_at)
        taken = same.update(lease=lease, lease_until=now + dt.timedelta(seconds=_LEASE))
        return lease if taken else None


_FREE: dict[str, object] = {"lease": "", "lease_until": None}
_EMPTY: dict[str, object] = {
    **_FREE,
    "access_token": "",
    "fetched_at": None,
    "expires_at": None,
    "failed_at": None,
    "error": "",
}


def _not_before(began: dt.datetime, now: dt.datetime, *, kept: str, refused: str | None) -> dt.datetime:
    """Return the time from which a failure counts as this call's. A test by a person ignores all earlier failures."""
    if refused == "":
        return began
    # Such a failure opens the circuit breaker, whose first probe must ask the endpoint.
    alone = _LEFT_ALONE if kept else breaker.probe_wait(1, Cause.NO_TOKEN)
    return min(began, now - dt.timedelta(seconds=alone))


@with_secrets
def _stored(granted: Granted, asked_at: dt.datetime) -> dict[str, object]:
    return {
        "access_token": granted.access_token,
        "fetched_at": timezone.now(),
        "expires_at": asked_at + dt.timedelta(seconds=granted.seconds),
        **_FREE,
        "failed_at": None,
        "error": "",
    }
