"""Access to a relay for one mail: it asks the circuit breaker before, and trips or resets it afterwards."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Iterator
from typing import Self, TypeVar

from django.db import DatabaseError, InterfaceError

from email_integration import routing
from email_integration.models import CircuitBreaker
from email_integration.on_commit import after_commit
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Deferred, Outcome, Skipped
from email_integration.queue import retry_now
from email_integration.routing import breaker
from email_integration.smtp import Phase, Relay, Session, SMTPFailure

from .ahead import Ahead, Lead
from .guard import Guard
from .sessions import pool, require_active

logger = logging.getLogger(__name__)

_ahead = Ahead()

_Reported = TypeVar("_Reported", bound=Outcome | Skipped)


class RelayAccess:
    """One mail's access to a relay: it asks the circuit breaker before a connection, and trips or resets it afterwards.

    With ``fresh`` it is by a fresh session, after what was said of another one: others of this process that need a
    fresh one too wait until it works, or the breaker is open. ``limited`` is that other one, if it came to a limit.
    """

    def __init__(self, relay: Relay, guard: Guard, *, fresh: bool = False, limited: Session | None = None) -> None:
        self.relay = relay
        self._guard = guard
        self._fresh = fresh
        self._limited = limited
        self._lead: Lead | None = None
        self._probing = False

    def __enter__(self) -> Self:
        if self._fresh:
            self._lead = _ahead.go(self.relay)
        return self

    def __exit__(self, *error: object) -> None:
        """A probe that has come to no verdict lets another mail probe."""
        try:
            if self._probing and not breaker.in_transaction():
                with self._bearing_the_database():
                    breaker.release_probe(self.relay)
        finally:
            if self._lead is not None:
                _ahead.end(self._lead, well=False)

    def works(self) -> None:
        """The server takes the mail, but for what it may say of its content."""
        if self._lead is not None:
            _ahead.end(self._lead, well=True)
        limited, self._limited = self._limited, None
        if limited is not None:  # the limit was its own: it is none of mails by time
            limited.server.ended_after(limited.carried)

    def before_opening(self) -> None:
        """Ask whether a session may be opened.

        Raises ``BreakerOpen``, and ``Replaced``: no login with what holds no longer.
        """
        require_active(self.relay)
        if not self._probing and not self._guard.breaker_is_closed(self.relay):
            self._probing = breaker.ask(self.relay)
        require_active(self.relay)  # the answer may have taken longer than who changes a configuration waits
        self._guard.opens()

    def has_another_password(self, failure: SMTPFailure) -> bool:
        """Whether the login was refused with a password that is another by now where it is kept.

        What waits for the relay with the old one is woken: it waits for nothing that can come.
        """
        if failure.reply is None or failure.phase is not Phase.AUTH or not routing.password_has_changed(self.relay):
            return False
        pool.discard(self.relay)
        if not breaker.in_transaction():
            with self._bearing_the_database():
                retry_now.reset_breaker(self.relay)
        return True

    def report(self, outcome: _Reported) -> _Reported:
        """Trip or reset the breaker; return the outcome, with when to try again if the relay is to blame for it."""
        probing, self._probing = self._probing, False
        if not (probing or isinstance(outcome, Deferred)):
            return outcome  # it says nothing of the relay
        if breaker.in_transaction():
            # Of a caller of the direct backend, who may leave it open for long: none must have to wait for that.
            later = functools.partial(self._report, outcome, probing=probing)
            after_commit(f"trip or reset the circuit breaker of {self.relay}", later, using=CircuitBreaker.objects.db)
            return outcome
        return self._report(outcome, probing=probing)

    def _report(self, outcome: _Reported, *, probing: bool) -> _Reported:
        with self._bearing_the_database():
            goes_on = probing and self._is_the_limit_that_tripped(outcome)
            if isinstance(outcome, Deferred) and (outcome.for_everybody or goes_on):
                pool.discard(self.relay)
                if outcome.cause is Cause.LIMIT:
                    pool.reduce(self.relay)
                wait = breaker.trip(self.relay, outcome, probing=probing)
                # It may be a limit of its recipients alone: then another mail probes before it does so again.
                return dataclasses.replace(outcome, for_everybody=True, retry_in=2 * wait if goes_on else wait)
            if probing:
                retry_now.reset_breaker(self.relay)
        return outcome

    def _is_the_limit_that_tripped(self, outcome: Outcome | Skipped) -> bool:
        """Whether a probe met the limit that tripped the breaker, said of this mail alone: to RCPT, or later."""
        if not isinstance(outcome, Deferred) or outcome.for_everybody or outcome.cause is not Cause.LIMIT:
            return False
        return breaker.is_open(self.relay, by=Cause.LIMIT)

    @contextlib.contextmanager
    def _bearing_the_database(self) -> Iterator[None]:
        """What the server said of the mail matters more than the breaker, which the next probe trips or resets."""
        try:
            yield
        except (DatabaseError, InterfaceError) as error:
            text = "The circuit breaker of %s could not be changed (%s)."
            logger.error(text, self.relay, type(error).__name__)
