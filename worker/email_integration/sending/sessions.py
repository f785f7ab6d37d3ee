"""The sessions of this process, and beginning a transaction on one that may have carried others: what is said of the
session then, not of the mail.
"""

from __future__ import annotations

from collections.abc import Callable

from email_integration import conf, routing
from email_integration.ledger import instrumentation
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.recognition import recognise
from email_integration.routing import quirks
from email_integration.smtp import (
    ConnectionLost,
    Limits,
    Opening,
    OutOfStep,
    Phase,
    Pool,
    Refused,
    Relay,
    Reply,
    Session,
    SMTPFailure,
    Started,
)


def _limits() -> Limits:
    return Limits(
        size=conf.get("SESSIONS"),
        idle=conf.get("SESSION_MAX_IDLE"),
        age=conf.get("SESSION_MAX_AGE"),
        transactions=conf.get("SESSION_MAX_TRANSACTIONS"),
        tries=conf.get("CONNECT_TRIES"),
    )


#: This process's SMTP sessions.
pool = Pool(_limits, instrumentation.installed, quirks.memory)


class Replaced(Exception):
    """Another relay is active by now; nothing was said."""


def require_active(relay: Relay) -> None:
    """Raise ``Replaced`` when another relay is active by now; asked at the last moment before MAIL."""
    now = routing.active_relay()
    if now is not relay and now != relay:  # a comparison of all their settings takes a while
        raise Replaced


def begin(
    session: Session, opening: Opening, *, before_saying: Callable[[], object], heard: Callable[[], object]
) -> Started:
    """Begin a transaction, with what is to be called before it is said, and after each reply. Raises what
    ``Session.begin`` raises, and ``Refused`` when a session that has carried mail may have no more recipients.
    """
    started = session.begin(opening, before_saying=before_saying, heard=heard)
    if not started.accepted and session.carried and all(map(_is_limit, started.refused.values())):
        raise Refused(Phase.RCPT, "", next(iter(started.refused.values())))
    return started


def is_about_session(failure: SMTPFailure, session: Session, *, sender_was_taken: bool = False) -> bool:
    """Whether it settles nothing of the mail, which a fresh session is to be offered at once.

    A session may end, or come to a limit of its own, once it has carried mail, or refuse the mail's sender that
    ``sender_was_taken`` before. This one says QUIT then.
    """
    refuses_it_now = sender_was_taken and failure.phase is Phase.MAIL and session.transactions > 1
    if not (refuses_it_now or isinstance(failure, OutOfStep) or _is_at_its_end(failure, session)):
        return False
    session.quit()
    return True


def came_to_limit(failure: SMTPFailure, session: Session) -> bool:
    """Whether a session that has carried mail came to a limit: its own, if a fresh one may have more mail at once."""
    return failure.reply is not None and bool(session.carried) and _is_limit(failure.reply, failure.phase)


#: What answers a command that the server does not know, or not now: it was taken for another one.
_NOT_UNDERSTOOD = frozenset({500, 502, 503, 504})


def _is_at_its_end(failure: SMTPFailure, session: Session) -> bool:
    phase, reply = failure.phase, failure.reply
    if session.transactions < 2 or phase not in (Phase.MAIL, Phase.RCPT, Phase.DATA):
        return False
    if reply is None:
        return isinstance(failure, ConnectionLost) and (phase is Phase.MAIL or bool(session.carried))
    if reply.code == 421 or reply.is_out_of_turn:
        return True
    if phase is Phase.MAIL:
        return bool(session.carried) and (not reply.permanent or reply.code in _NOT_UNDERSTOOD)
    return phase is Phase.RCPT  # said of all of them, see 'begin'


def _is_limit(reply: Reply, phase: Phase = Phase.RCPT) -> bool:
    return not reply.permanent and recognise(phase, reply) in (Cause.LIMIT, Cause.TOO_MANY_RECIPIENTS)
