"""Access to a relay for one mail: ask the circuit breaker before, and trip or reset it afterwards."""

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

    With ``fresh`` a fresh session is used, because another session failed. Other mails of this process that also need a
    fresh session wait until it works or the breaker is open. ``limited`` is the other session, if it reached a limit.
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
        """Let another mail probe if this probe reached no verdict."""
        try:
            if self._probing and not breaker.in_transaction():
                with self._bearing_the_database():
                    breaker.release_probe(self.relay)
        finally:
            if self._lead is not None:
                _ahead.end(self._lead, well=False)

    def works(self) -> None:
        """The server accepts the mail, except for a possible refusal of its content."""
        if self._lead is not None:
            _ahead.end(self._lead, well=True)
        limited, self._limited = self._limited, None
        if limited is not None:  # the limit was the session's, and not one over time
            limited.server.ended_after(limited.carried)

    def before_opening(self) -> None:
        """Check whether a session may be opened.

        Raises ``BreakerOpen``, and ``Replaced`` so that an outdated configuration is not used to log in.
        """
        require_active(self.relay)
        if not self._probing and not self._guard.breaker_is_closed(self.relay):
            self._probing = breaker.ask(self.relay)
        require_active(self.relay)  # the answer may have taken longer than a configuration change waits
        self._guard.opens()

    def has_another_password(self, failure: SMTPFailure) -> bool:
        """Return whether the login was refused with a password that has been changed since where it is stored.

        Deliveries that wait for the relay with the old password are woken, because that relay will not recover.
        """
        if failure.reply is None or failure.phase is not Phase.AUTH or not routing.password_has_changed(self.relay):
            return False
        pool.discard(self.relay)
        if not breaker.in_transaction():
            with self._bearing_the_database():
                retry_now.reset_breaker(self.relay)
        return True

    def report(self, outcome: _Reported) -> _Reported:
        """Trip or reset the breaker. Return the outcome, with the time to try again if the relay is at fault."""
        probing, self._probing = self._probing, False
        if not (probing or isinstance(outcome, Deferred)):
            return outcome  # it tells nothing about the relay
        if breaker.in_transaction():
            # The transaction of a caller of the direct backend may stay open for long, and no process must wait for it.
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
                # It may be a limit of its recipients alone. So this mail waits longer, and another mail probes first.
                return dataclasses.replace(outcome, for_everybody=True, retry_in=2 * wait if goes_on else wait)
            if probing:
                retry_now.reset_breaker(self.relay)
        return outcome

    def _is_the_limit_that_tripped(self, outcome: Outcome | Skipped) -> bool:
        """Return whether a probe met the limit that tripped the breaker, at RCPT or later and for this mail alone."""
        if not isinstance(outcome, Deferred) or outcome.for_everybody or outcome.cause is not Cause.LIMIT:
            return False
        return breaker.is_open(self.relay, by=Cause.LIMIT)

    @contextlib.contextmanager
    def _bearing_the_database(self) -> Iterator[None]:
        """Log database errors.

        The server's reply matters more than the breaker, which the next probe trips or resets.
        """
        try:
            yield
        except (DatabaseError, InterfaceError) as error:
            text = "The circuit breaker of %s could not be changed (%s)."
            logger.error(text, self.relay, type(error).__name__)
