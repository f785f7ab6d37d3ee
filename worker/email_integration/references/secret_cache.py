"""The secret cache of a process: resolved references, kept for a while, and read again when a server refuses one."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from django.db import connections
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from email_integration import conf
from email_integration.exceptions import SecretUnavailable
from email_integration.forks import after_fork_in_child
from email_integration.secrecy import with_secrets

from . import parsing
from .bounds import allow, opens_this_project
from .parsing import Reference, parse
from .providers import LARGEST, provider_of


@dataclass(frozen=True)
class _Kept:
    secret: str = field(repr=False)
    read_at: float


class _Lookup:
    """One read of one secret, in a separate thread, because a provider may hang."""

    def __init__(self, reference: Reference) -> None:
        self.began_at = time.monotonic()
        self._reference = reference
        self._answer: Future[str] = Future()
        threading.Thread(target=self._run, name="secret", daemon=True).start()

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or hangs for so long that another read may be tried."""
        return self._answer.done() or time.monotonic() - self.began_at > _GIVEN_UP_AFTER

    @with_secrets
    def answer(self) -> str:
        """Wait up to SECRET_TIMEOUT seconds for the secret. Raises ``SecretUnavailable``."""
        patience = conf.get("SECRET_TIMEOUT")
        try:
            return self._answer.result(max(0.0, self.began_at + patience - time.monotonic()))
        except TimeoutError:
            text = _("The provider of “{kind}:” did not answer within {seconds} seconds.")
            raise SecretUnavailable(format_lazy(text, kind=self._reference.kind, seconds=f"{patience:g}")) from None
        except SecretUnavailable as error:
            raise SecretUnavailable(*error.args) from None  # a new instance for this thread

    @with_secrets
    def _run(self) -> None:
        kind = self._reference.kind
        try:
            secret: Any = provider_of(kind).resolve(self._reference.name)
            if not isinstance(secret, str) or not 0 < len(secret.rstrip("\r\n")) <= LARGEST:
                raise ValueError
            secret = secret.removesuffix("\n").removesuffix("\r")
            if opens_this_project(secret):
                text = _(
                    "The provider of “{kind}:” returned a key of this project or the address of a database, "
                    "not a password."
                )
                raise SecretUnavailable(format_lazy(text, kind=kind))
            _keep(self._reference, _Kept(secret, self.began_at))  # store it even if the caller has stopped waiting
            self._answer.set_result(secret)
        except SecretUnavailable as error:
            self._answer.set_exception(error)
        except BaseException as error:  # any error of a provider; its text may quote the secret
            text = _("The provider of “{kind}:” failed or has no such secret ({error}).")
            self._answer.set_exception(SecretUnavailable(format_lazy(text, kind=kind, error=type(error).__name__)))
        finally:
            connections.close_all()  # the connections of this thread


#: A lookup that hangs for this many seconds is abandoned.
_GIVEN_UP_AFTER = 60.0

# The secrets that this process has read, and its lookups in progress; both change only under the lock.
_lock = threading.Lock()
_kept: dict[Reference, _Kept] = {}
_asked: dict[Reference, _Lookup] = {}


@with_secrets
def resolve(text: str, *, anew: bool = False) -> str:
    """Return the password that ``text`` is or refers to; with ``anew`` the cache is not used.

    Raises ``SecretUnavailable``, whose text contains no secret.
    """
    found = parse(text)
    if not isinstance(found, Reference):
        return found
    allow(found)
    kept = None if anew else _still_good(found)
    return kept.secret if kept is not None else _look_up(found)


@with_secrets
def renew(text: str, *, refused: str) -> bool:
    """Return whether ``text`` refers to a secret that differs now from ``refused``, which a server has refused."""
    found = parse(text)
    if not isinstance(found, Reference):
        return False
    kept = _still_good(found)
    if kept is not None and kept.secret != refused:
        return True  # another thread has read it already
    try:
        return resolve(text, anew=True) != refused
    except SecretUnavailable:
        return False


@with_secrets
def check(text: str) -> None:
    """Return if ``text`` is a password, or refers to one that can be read here; else raise ``SecretUnavailable``."""
    if (unknown := parsing.unknown(text)) is not None:
        raise SecretUnavailable(unknown)
    resolve(text, anew=True)


def forget() -> None:
    """Clear the cache."""
    with _lock:
        _kept.clear()


def _still_good(reference: Reference) -> _Kept | None:
    kept = _kept.get(reference)
    return kept if kept is not None and time.monotonic() - kept.read_at < conf.get("SECRET_TTL") else None


def _look_up(reference: Reference) -> str:
    with _lock:
        lookup = _asked.get(reference)
        if lookup is None or lookup.is_over:
            lookup = _asked[reference] = _Lookup(reference)
    return lookup.answer()


def _keep(reference: Reference, kept: _Kept) -> None:
    with _lock:
        known = _kept.get(reference)
        if known is None or known.read_at <= kept.read_at:
            _kept[reference] = kept


def _forget_inherited() -> None:
    """Clear lookups and lock in the child of a fork: it has no lookup threads, and possibly no owner of the lock."""
    global _lock  # this process's own
    _lock = threading.Lock()
    _asked.clear()


after_fork_in_child(_forget_inherited)
