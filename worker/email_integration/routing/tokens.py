"""The access tokens of a configuration: kept in the database for all, fetched by one process at a time.

Whoever opens a session asks here. A token near its end is fetched anew by the one who gets the lease, a conditional
write; the others use the old one while it is good, and wait for the new one otherwise.
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

#: For how long nobody else fetches, in seconds: longer than fetching takes.
_LEASE = 5 * PATIENCE

#: How long the others wait for whoever fetches, and how often they look, in seconds.
_WAIT = PATIENCE + 5.0
_LOOK = 0.1

#: For how long an endpoint is left alone that has failed while the token it gave is still good, in seconds.
_LEFT_ALONE = 60.0


class StoredTokens:
    """The tokens of one configuration: ``email_integration.smtp.TokenSource`` for its relay.

    ``pk`` is the configuration's; with None nothing is kept, which is for settings that are only tried. ``digest``
    tells its settings from others.
    """

    def __init__(self, account: Account, *, pk: int | None, digest: str) -> None:
        self._account = account
        self._pk = pk
        self._digest = digest

    @with_secrets
    def current(self) -> str:
        """The token that is good now, fetched if need be. Raises ``NoToken``."""
        row = self._read()
        now = timezone.now()
        if row is not None and not row.is_old(now) and (token := row.usable(now)):
            return token
        return self._fetched(refused=None)

    @with_secrets
    def another(self, refused: str = "") -> str | None:
        """One that is not ``refused``, fetched anew unless somebody has done so since. Raises ``NoToken``."""
        return self._fetched(refused=refused)

    def _fetched(self, *, refused: str | None) -> str:
        """A token fetched by us, or by somebody else meanwhile. ``refused`` is one that is not good any more, '' the
        one that is stored whatever it is; None leaves an old one good while it lasts.
        """
        if self._pk is None:
            return families.fetch(self._account).access_token
        if transaction.get_connection(OAuthToken.objects.db).in_atomic_block:
            return self._fetched_in_transaction(refused=refused)
        began, until = timezone.now(), time.monotonic() + _WAIT
        while time.monotonic() < until:
            row, now = self._row(), timezone.now()
            token = row.usable(now)
            # Somebody may have fetched one since it was found missing, or while we wait.
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
        raise NoToken(Phase.AUTH, "another process is fetching the OAuth token, and it takes long")

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
        """Of a caller of the direct backend, who may leave it open for long: nobody must have to wait for its end, so
        that there is no lease, and what was fetched is kept once it is over.
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
        """Tell the configuration when its certificate ends, which may be another one where it is kept elsewhere."""
        ends = granted.certificate_ends
        if ends is not None and self._pk is not None:
            # Not update() of this app: nothing that mail goes by has changed.
            configs: models.QuerySet[SMTPConfig] = models.QuerySet(SMTPConfig, using=SMTPConfig.objects.db)
            configs.filter(pk=self._pk).exclude(oauth_secret_ends=ends).update(oauth_secret_ends=ends)

    # -- the row ------------------------------------------------------------------------------------------------

    def _read(self) -> OAuthToken | None:
        """The row of these settings, if there is one."""
        return OAuthToken.objects.filter(pk=self._pk, settings=self._digest).first() if self._pk is not None else None

    def _row(self) -> OAuthToken:
        """The row of these settings, made empty where there is none or one of others."""
        row = self._read()
        if row is not None:
            return row
        OAuthToken.objects.filter(pk=self._pk).exclude(settings=self._digest).update(settings=self._digest, **_EMPTY)
        row, _ = OAuthToken.objects.get_or_create(pk=self._pk, defaults={"settings": self._digest})
        return row if row.settings == self._digest else self._row()  # somebody with other settings came between

    def _take(self, row: OAuthToken, now: dt.datetime) -> str | None:
        """Get the lease, unless somebody has it, or has fetched since ``row`` was read."""
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
    """A failure since then is ours too. A person who tests waits for none that was there before."""
    if refused == "":
        return began
    # Such a failure opens the circuit breaker, whose first probe has to ask the endpoint.
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
