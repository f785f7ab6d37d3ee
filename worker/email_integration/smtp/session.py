"""One connection to a relay, from greeting to QUIT, with a separate method for each step.

A transaction is three calls: ``begin`` (MAIL, RCPT, DATA), ``write`` (the content, except for a small end), ``finish``
(that end, the final dot and its reply). Before the final dot the server has accepted nothing, so a process that loses
the right to send the mail calls ``close``. ``finish`` can send the first commands of the next transaction together with
the dot, which saves one of two round trips.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from email_integration.secrecy import with_secrets

from .content import ALONG_WITH_DOT, stuffed
from .dialogue import MALFORMED, Connection, Malformed
from .errors import ConnectionLost, NotOffered, OutOfStep, Refused, SMTPFailure
from .observer import SessionObserver
from .opening import open_connection
from .quirks import Acquaintance, Memory, Pipelining, Quirks
from .relay import Opening, Relay
from .replies import Phase, Reply
from .transaction import Answers, Command, Started, commands

#: Maximum time, in seconds, to wait for the answer to QUIT before the connection is closed.
QUIT_TIMEOUT = 2.0

#: Maximum number of commands in one group (RFC 2920). They and their replies fit into the buffers between this process
#: and the server, so neither waits for the other to read.
_AT_ONCE = 100

#: Seconds after which the reply to a final dot is late: the server is busy with the mail, not far away.
_SLOW_DOT = 0.5

#: After these replies to a final dot (unknown command, or a command at the wrong time) a server may still be in its
#: transaction.
_STATE_UNKNOWN = frozenset({500, 502, 503, 504})


class Session:
    """An SMTP session; made by ``Session.open``."""

    def __init__(
        self,
        relay: Relay,
        connection: Connection,
        observer: SessionObserver | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.relay = relay
        self.server = Acquaintance(relay, memory or Memory())
        self._observer = observer or SessionObserver()
        #: The time of the last MAIL.
        self._begun_at = 0.0
        self.opened_at = self.used_at = time.monotonic()
        #: How many transactions were begun, and how many mails the server accepted.
        self.transactions = self.carried = 0
        self._tls_version = connection.tls_version
        self._in_transaction = False
        # The commands that were sent together with the last final dot, and are not answered yet.
        self._said_ahead: list[Command] = []
        # The end of the content, which is sent together with the final dot.
        self._held = b""
        # How long the reply to the last final dot took, in seconds.
        self._dot_took = 0.0
        # Whether commands sent ahead were accepted once: a later refusal is then meant for the commands themselves.
        self._heeds_ahead = False
        # Called after each reply to MAIL, RCPT and DATA.
        self._heard: Callable[[], object] | None = None
        self._smtp = connection

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "idle" if self.is_idle else "busy"
        return f"<Session {self.relay.host}:{self.relay.port} {state} transactions={self.transactions}>"

    @classmethod
    @with_secrets
    def open(
        cls,
        relay: Relay,
        observer: SessionObserver | None = None,
        memory: Memory | None = None,
        *,
        heard: Callable[[], object] | None = None,
    ) -> Session:
        """Connect, secure and authenticate, and return the session.

        ``memory`` holds the quirks of servers, and learns new ones; ``observer`` is called after each transaction;
        ``heard`` is called after each answer of the server. Raises the errors of ``open_connection``.
        """
        return cls(relay, open_connection(relay, heard=heard), observer, memory)

    # -- one transaction ----------------------------------------------------------------------------------------

    def begin(
        self,
        opening: Opening,
        *,
        before_saying: Callable[[], object] | None = None,
        heard: Callable[[], object] | None = None,
    ) -> Started:
        """Send MAIL, RCPT for each recipient and, when at least one was accepted, DATA; return the result.

        The commands are sent together where the server offers PIPELINING (RFC 2920). If ``finish`` has sent them ahead,
        only their replies are read. When the server accepts no more recipients, the others are not sent, and are
        returned as ``left``. ``before_saying`` is called directly before MAIL, also when MAIL is repeated, and can
        prevent it by raising. ``heard`` is called after each reply.

        Raises ``Refused`` for a refused MAIL or DATA, and for a 421 to any command; ``ConnectionLost`` at any point;
        ``OutOfStep`` where the replies may not belong to the commands; and ``NotOffered``, before anything is sent, for
        addresses that need SMTPUTF8 (RFC 6531). An error between the recipients' replies holds those so far. A refused
        recipient is not an exception, but part of the result. Raises ``ValueError`` when another transaction was sent
        ahead.
        """
        said = commands(self._smtp, opening)
        if self._said_ahead and self._said_ahead != said:
            self.close()
            raise ValueError("another transaction is already in progress")
        self._heard = heard
        was_ahead = bool(self._said_ahead)
        if not was_ahead:
            self._heed_early_reply(Phase.MAIL)
            if before_saying is not None:
                before_saying()
            self._in_transaction = True
            self.transactions += 1
            self._begun_at = time.monotonic()
        answers = self._exchange(said)
        if was_ahead and answers.were_refused and (answers.mail_was_refused or not self._heeds_ahead):
            answers = self._repeat(said, answers, before_saying)
        elif was_ahead and answers.a_recipient_was_accepted and answers.awaits_content:
            self._heeds_ahead = True
        return self._started(opening.envelope.recipients, answers)

    def _repeat(self, said: Sequence[Command], heard: Answers, before_saying: Callable[[], object] | None) -> Answers:
        """Repeat the commands that were refused when they were sent ahead: the server may have refused just that."""
        if not heard.mail_was_refused and heard.end is None and not heard.awaits_content:
            self._reset()
            self._in_transaction = True
        elif heard.end is not None or any(reply.code < 400 for reply in heard.all):
            self.close()
        if self.is_closed:
            raise self._out_of_step(Phase.MAIL, "", None, ahead=True)
        if before_saying is not None:
            before_saying()
        self._begun_at = time.monotonic()
        again = self._exchange(said)
        if again.mail is not None and not (again.mail_was_refused or again.were_refused):
            self.server.learn(pipelining=Pipelining.GROUPS)
        return again

    def _started(self, recipients: Sequence[str], heard: Answers) -> Started:
        """Return the result of the replies; raises the errors of ``begin``."""
        if heard.mail is not None and heard.mail_was_refused:
            self.server.forget_tried()
            # There is no transaction to reset then; unless the server continued as if there were one.
            if all(reply.code >= 400 for reply in heard.all):
                self._ended()
            else:
                self.close()
            raise Refused(Phase.MAIL, "", heard.mail)
        if heard.are_positive and heard.end is None:
            self.server.confirm()
            return Started(accepted=tuple(dict.fromkeys(recipients)), refused={})
        verdicts = dict(zip(recipients, heard.recipients, strict=False))
        accepted = tuple(recipient for recipient, reply in verdicts.items() if reply.positive)
        left = tuple(recipients[len(verdicts) :])
        if heard.end is not None and (accepted or left):
            heard.end.answered = verdicts
            raise heard.end
        self.server.confirm()
        if accepted and heard.before_too_many and self.transactions == 1:
            self.server.learn(recipients=heard.before_too_many)
        if heard.data is not None and heard.data.code == 354:
            if not accepted:
                # RFC 2920 §3.1 asks for a lone dot here, which might send an empty mail to recipients that the server
                # believes it has accepted. Closing sends no mail, and a correct server refuses DATA here.
                self.close()
        else:
            self._reset()
            if accepted and heard.data is not None:
                refusal = Refused(Phase.DATA, "", heard.data)
                refusal.answered = verdicts
                raise refusal
        refused = {recipient: reply for recipient, reply in verdicts.items() if not reply.positive}
        return Started(accepted=accepted, refused=refused, left=left)

    @with_secrets
    def write(self, content: bytes | Iterable[bytes]) -> None:
        """Send the content, dot-stuffed, without the final dot. Blocks may have any size, and are sent as they come.

        A small end of the content, which is all of it for most mails, is kept for ``finish``. Raises
        ``ConnectionLost``, ``Refused`` when the server refuses before the end, and the errors of the blocks; the
        session is then closed.
        """
        held = b""
        try:
            for piece in stuffed(content):
                held += piece
                if len(held) > ALONG_WITH_DOT:
                    with self._smtp.during(Phase.CONTENT):
                        self._send_or_hear_why(held)
                    held = b""
            self._held = held
        except BaseException:
            self.close()
            raise

    @with_secrets
    def finish(self, *, timeout: float, ahead: Opening | None = None) -> Reply:
        """Send the rest of the content and the final dot, and return the reply, all within ``timeout`` seconds.

        Where the server offers PIPELINING, the commands of ``begin`` for ``ahead`` are sent together with the dot (RFC
        2920 §3.1). The next call must then be that ``begin``, or ``close``.

        Raises ``ConnectionLost`` in phase ``FINAL_DOT`` when the server may or may not have the mail (RFC 1047). In
        phase ``CONTENT``, ``ConnectionLost`` and ``Refused`` mean that the dot was not sent.
        """
        self._heed_early_reply(Phase.CONTENT)
        said_ahead, along = self._ahead(ahead) if ahead else ([], b"")
        dot_at = time.monotonic()
        with self._smtp.during(Phase.FINAL_DOT, timeout=timeout):
            self._say_dot(along)
            reply = self._smtp.hear_verdict()
            if 300 <= reply.code < 400:  # says nothing about the mail
                raise Malformed
        self._ended()
        self._dot_took = self.used_at - dot_at
        self.carried += reply.positive
        self._observer.transacted(self.relay, self.used_at - self._begun_at)
        self._begun_at = dot_at  # for the next transaction, if it was sent ahead
        if reply.code == 421 or reply.code in _STATE_UNKNOWN:
            self.close()
        elif said_ahead and not self.is_closed:
            self._in_transaction = True
            self._said_ahead = said_ahead
            self.transactions += 1
        return reply

    def _say_dot(self, along: bytes) -> None:
        """Send the rest of the content, the final dot and the octets ``along`` with it, in one write."""
        held, self._held = self._held, b""
        try:
            self._smtp.send(held + b".\r\n" + along)
        except OSError:
            # Whatever part was sent, the end was not. The end is the dot, unless other octets follow it.
            not_said = self._smtp.gone == 0 or (held and not along)
            if not_said and threading.current_thread() is not threading.main_thread():
                # (On the main thread a signal handler may have raised the error, after everything was sent.)
                self._smtp.comes_to(Phase.CONTENT)
                self._heed_early_reply(Phase.CONTENT)
            raise

    def _ahead(self, opening: Opening) -> tuple[list[Command], bytes]:
        """Return the commands for ``opening`` that can be sent before the reply to the dot, and their octets.

        Both are empty where they are more than one group.
        """
        if not self.can_say_ahead:
            return [], b""
        try:
            said = commands(self._smtp, opening)
            octets = self._smtp.octets(line for _, line in said)
        except (NotOffered, ValueError):
            return [], b""  # 'begin' raises the error, which does not concern the mail before
        fits = len(said) < _AT_ONCE and len(self._held) + len(octets) <= ALONG_WITH_DOT
        return (said, octets) if fits else ([], b"")

    @property
    def can_say_ahead(self) -> bool:
        """Whether it is possible and useful to begin the next transaction together with a final dot.

        It is not useful for a server that is slow to answer the dot: one round trip is nothing then, and the next
        transaction would wait for the answer.
        """
        return self._dot_took < _SLOW_DOT and self._at_once > 1 and self.quirks.pipelining is Pipelining.FULL

    @property
    def has_said_ahead(self) -> bool:
        """Whether the next transaction was begun together with the last final dot, and is not answered yet."""
        return bool(self._said_ahead)

    @property
    def quirks(self) -> Quirks:
        """The quirks that this session knows of its server."""
        return self.server.quirks

    @property
    def takes_utf8(self) -> bool:
        """Whether addresses beyond ASCII can be sent (RFC 6531)."""
        return "smtputf8" in self._smtp.esmtp_features

    @property
    def _at_once(self) -> int:
        """The maximum number of commands in one group."""
        allowed = self.relay.pipelining and self.quirks.pipelining is not Pipelining.NONE
        return _AT_ONCE if allowed and "pipelining" in self._smtp.esmtp_features else 1

    def _exchange(self, said: Sequence[Command]) -> Answers:
        """Send the commands of a transaction, in groups or one by one, as long as the replies allow it to continue.

        Return the replies, and the error that ended the session between them, if there was one: the session is
        then closed. Raises ``ConnectionLost`` for octets that are not a reply, because then the other replies may
        belong to other commands, and ``OutOfStep`` when a group may be the cause.
        """
        heard = Answers()
        said_ahead, self._said_ahead = bool(self._said_ahead), []
        at_once = self._at_once
        rest = list(said)
        while rest:
            group, rest = rest[:at_once], rest[at_once:]
            if not heard.are_positive:
                if heard.mail_was_refused:
                    break
                if group[0][0] is Phase.DATA and not heard.a_recipient_was_accepted:
                    break
            try:
                with self._smtp.during(group[0][0]):
                    if said_ahead:
                        self._smtp.start_clock()
                    else:
                        self._smtp.say([line for _, line in group])
                for phase, _ in group:
                    reply = self._reply(phase)
                    if reply.code == 421:  # the server is closing the connection (RFC 5321 §3.8)
                        self.close()
                        heard.end = Refused(phase, "", reply)
                        return heard
                    heard.add(phase, reply)
                    if self._heard is not None:
                        self._heard()
                    if phase is Phase.MAIL and reply.is_out_of_turn and len(group) > 1 and not said_ahead:
                        raise self._out_of_step(phase, "", reply, ahead=False)  # the server may send no other reply
            except OutOfStep:
                raise
            except ConnectionLost as lost:
                if len(group) > 1 and (lost.is_silence or lost.detail == MALFORMED):
                    raise self._out_of_step(lost.phase, lost.detail, None, ahead=said_ahead) from lost.__cause__
                if lost.detail == MALFORMED:
                    raise
                heard.end = lost
                return heard
            if heard.are_positive:
                continue
            if len(group) > 1 and (out := heard.out_of_turn) and out[0] is not Phase.MAIL:
                raise self._out_of_step(out[0], "", out[1], ahead=said_ahead)
            if heard.are_enough:
                rest = [command for command in rest if command[0] is Phase.DATA]
        return heard

    def _out_of_step(self, phase: Phase, detail: str, reply: Reply | None, *, ahead: bool) -> OutOfStep:
        """Close, and make the next session send fewer commands at once; return the error.

        If the session has sent mail before, the cause may be another one: only commands sent ahead are suspected then.
        """
        self.close()
        if ahead:
            self.server.suspect(pipelining=Pipelining.GROUPS)
        elif self.transactions == 1:
            self.server.suspect(pipelining=Pipelining.NONE)
        return OutOfStep(phase, detail, reply)

    def _reply(self, phase: Phase) -> Reply:
        """Read the reply to a command. 2yz accepts it, 354 accepts DATA; one in place of the other is malformed."""
        self._smtp.comes_to(phase)
        try:
            reply = self._smtp.hear()
            if reply.code < 400 and (phase is Phase.DATA) != (reply.code == 354):
                raise Malformed
        except BaseException as error:
            self._smtp.fail(error)
            raise
        return reply

    def _heed_early_reply(self, phase: Phase) -> None:
        """Close, and raise, if the server sent something or hung up without a command: it has not accepted the mail.

        Before MAIL it cannot be about this mail, so only a 421 is raised as ``Refused``.
        """
        if not self._smtp.has_spoken():
            return
        with self._smtp.during(phase):
            # The timeout for a reply applies: half a reply must not block us for as long as a block of content may.
            reply = self._smtp.hear(within=self.relay.timeout)
            self.close()
            if reply.code < 400 or (phase is Phase.MAIL and reply.code != 421):
                raise Malformed
        raise Refused(phase, "", reply)

    def _send_or_hear_why(self, piece: bytes) -> None:
        try:
            self._smtp.send(piece)
        except OSError:
            self._heed_early_reply(Phase.CONTENT)
            raise

    def _reset(self) -> None:
        """Leave the transaction with RSET, so the session can send another mail; if this fails, close the session."""
        try:
            with self._smtp.during(Phase.MAIL):
                self._smtp.say(["RSET"])
            reply = self._reply(Phase.MAIL)
        except SMTPFailure:
            return
        if reply.positive:
            self._ended()
        else:
            self.close()

    def _ended(self) -> None:
        self._in_transaction = False
        self.used_at = time.monotonic()

    # -- state --------------------------------------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        return self._smtp.sock is None

    @property
    def is_idle(self) -> bool:
        """Whether the session is open and between transactions, so it can send another mail."""
        return not self.is_closed and not self._in_transaction

    @property
    def tls_version(self) -> str:
        """The TLS version, such as 'TLSv1.3', or '' for a session in the clear; it stays after the session's end."""
        return self._tls_version

    @property
    def was_hung_up(self) -> bool:
        """Whether the server sent something or closed the connection without a command."""
        return self._smtp.has_spoken()

    def quit(self, *, timeout: float = QUIT_TIMEOUT) -> None:
        """End the session with QUIT, and wait up to ``timeout`` seconds for the server's answer; never raises."""
        if not self.is_closed and timeout > 0:
            with contextlib.suppress(OSError):
                self._smtp.timeout = timeout
                self._smtp.docmd("QUIT")
        self.close()

    def close(self) -> None:
        """Close the connection without QUIT; a mail without a reply to its final dot is not sent."""
        self._held, self._said_ahead = b"", []
        self._smtp.close()
