"""The SMTP sessions of this process, and starting transactions on them.

A session may have carried other mails. Then some replies concern the session and not the mail.
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
    """Another relay is active by now. Nothing was sent."""


def require_active(relay: Relay) -> None:
    """Raise ``Replaced`` when another relay is active by now. Call it directly before MAIL."""
    now = routing.active_relay()
    if now is not relay and now != relay:  # comparing all settings takes a while
        raise Replaced


def begin(
    session: Session, opening: Opening, *, before_saying: Callable[[], object], heard: Callable[[], object]
) -> Started:
    """Start a transaction with the envelope and size in ``opening``.

    ``before_saying`` is called before the first command, and ``heard`` after each reply. Raises the errors of
    ``Session.begin``, and ``Refused`` when a session that has carried mail accepts no more recipients.
    """
    started = session.begin(opening, before_saying=before_saying, heard=heard)
    if not started.accepted and session.carried and all(map(_is_limit, started.refused.values())):
        raise Refused(Phase.RCPT, "", next(iter(started.refused.values())))
    return started


def is_about_session(failure: SMTPFailure, session: Session, *, sender_was_taken: bool = False) -> bool:
    """Return whether the failure concerns the session, so the mail is to be tried with a fresh one immediately.

    After it has carried mail, a session may end or reach a limit, or refuse a sender of the mail that was accepted
    before (``sender_was_taken``). In that case QUIT is sent on this session.
    """
    refuses_it_now = sender_was_taken and failure.phase is Phase.MAIL and session.transactions > 1
    if not (refuses_it_now or isinstance(failure, OutOfStep) or _is_at_its_end(failure, session)):
        return False
    session.quit()
    return True


def came_to_limit(failure: SMTPFailure, session: Session) -> bool:
    """Return whether a session that has carried mail reached a limit.

    It is the session's if a fresh one takes mail at once.
    """
    return failure.reply is not None and bool(session.carried) and _is_limit(failure.reply, failure.phase)


#: Replies to a command that the server does not know, or not now. It misunderstood the command.
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
    return phase is Phase.RCPT  # said of all recipients, see 'begin'


def _is_limit(reply: Reply, phase: Phase = Phase.RCPT) -> bool:
    return not reply.permanent and recognise(phase, reply) in (Cause.LIMIT, Cause.TOO_MANY_RECIPIENTS)
