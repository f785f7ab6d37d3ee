"""The secret cache of a process: what references lead to, kept for a while, and read anew when a server refuses it."""

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
    """One reading of one secret, in a thread of its own: whoever keeps secrets may hang."""

    def __init__(self, reference: Reference) -> None:
        self.began_at = time.monotonic()
        self._reference = reference
        self._answer: Future[str] = Future()
        threading.Thread(target=self._run, name="secret", daemon=True).start()

    @property
    def is_over(self) -> bool:
        """Whether nobody need wait for it: it has ended, or hangs for so long that another may be tried."""
        return self._answer.done() or time.monotonic() - self.began_at > _GIVEN_UP_AFTER

    @with_secrets
    def answer(self) -> str:
        """Wait for the secret. Raises ``SecretUnavailable``."""
        patience = conf.get("SECRET_TIMEOUT")
        try:
            return self._answer.result(max(0.0, self.began_at + patience - time.monotonic()))
        except TimeoutError:
            text = _("“{kind}:” gave no answer within {seconds} seconds.")
            raise SecretUnavailable(format_lazy(text, kind=self._reference.kind, seconds=f"{patience:g}")) from None
        except SecretUnavailable as error:
            raise SecretUnavailable(*error.args) from None  # one of this thread's own

    @with_secrets
    def _run(self) -> None:
        kind = self._reference.kind
        try:
            secret: Any = provider_of(kind).resolve(self._reference.name)
            if not isinstance(secret, str) or not 0 < len(secret.rstrip("\r\n")) <= LARGEST:
                raise ValueError
            secret = secret.removesuffix("\n").removesuffix("\r")
            if opens_this_project(secret):
                text = _("“{kind}:” gives a key of this project, or the address of a database, and no password.")
                raise SecretUnavailable(format_lazy(text, kind=kind))
            _keep(self._reference, _Kept(secret, self.began_at))  # though nobody may wait for it any more
            self._answer.set_result(secret)
        except SecretUnavailable as error:
            self._answer.set_exception(error)
        except BaseException as error:  # whatever a provider raises; its text may quote the secret
            text = _("“{kind}:” cannot be asked for the secret, or has none ({error}).")
            self._answer.set_exception(SecretUnavailable(format_lazy(text, kind=kind, error=type(error).__name__)))
        finally:
            connections.close_all()  # those of this thread


#: A lookup that hangs is left to itself after so many seconds.
_GIVEN_UP_AFTER = 60.0

# What this process knows, and whom it asks at this moment; both changed under the lock alone.
_lock = threading.Lock()
_kept: dict[Reference, _Kept] = {}
_asked: dict[Reference, _Lookup] = {}


@with_secrets
def resolve(text: str, *, anew: bool = False) -> str:
    """Return the password that ``text`` is or refers to; what is kept is not used when it is to be had ``anew``.

    Raises ``SecretUnavailable``, whose text holds no secret.
    """
    found = parse(text)
    if not isinstance(found, Reference):
        return found
    allow(found)
    kept = None if anew else _still_good(found)
    return kept.secret if kept is not None else _look_up(found)


@with_secrets
def renew(text: str, *, refused: str) -> bool:
    """Whether ``text`` refers to another secret by now than the one that a server has refused."""
    found = parse(text)
    if not isinstance(found, Reference):
        return False
    kept = _still_good(found)
    if kept is not None and kept.secret != refused:
        return True  # somebody else has asked already
    try:
        return resolve(text, anew=True) != refused
    except SecretUnavailable:
        return False


@with_secrets
def check(text: str) -> None:
    """Return if ``text`` is a password, or refers to one that can be had here. Raises ``SecretUnavailable``."""
    if (unknown := parsing.unknown(text)) is not None:
        raise SecretUnavailable(unknown)
    resolve(text, anew=True)


def forget() -> None:
    """Keep nothing of what was read so far."""
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
    """Runs in the child of a fork, where the threads that were asked are not, and whoever holds the lock may not be."""
    global _lock  # this process's own
    _lock = threading.Lock()
    _asked.clear()


after_fork_in_child(_forget_inherited)
