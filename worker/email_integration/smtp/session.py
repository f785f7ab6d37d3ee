"""One connection to a relay, from greeting to QUIT, with every verb said separately.

A transaction is three calls: ``begin`` (MAIL, RCPT, DATA), ``write`` (the content, but for a small end), ``finish``
(that end, the final dot and its reply). Up to the final dot the server has taken nothing: a process that loses the
right to send it calls ``close``. ``finish`` can say what begins the next transaction along with the dot, which makes
one round trip of two.
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

#: How long, in seconds, a server may take to answer QUIT before the connection is simply closed.
QUIT_TIMEOUT = 2.0

#: Commands in one group (RFC 2920). They and their replies fit into the buffers between us and the server: neither
#: waits for the other to read.
_AT_ONCE = 100

#: Seconds after which the reply to a final dot is late: the server is busy with the mail, not far away.
_SLOW_DOT = 0.5

#: After these to a final dot (the command is not known, or has come at the wrong time) a server may still be in its
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
        #: When MAIL was said last.
        self._begun_at = 0.0
        self.opened_at = self.used_at = time.monotonic()
        #: How many transactions were begun, and how many mails the server took.
        self.transactions = self.carried = 0
        self._tls_version = connection.tls_version
        self._in_transaction = False
        # What was said along with the last final dot, and not answered yet.
        self._said_ahead: list[Command] = []
        # The end of the content, which goes out along with the final dot.
        self._held = b""
        # How long the reply to the last final dot took, in seconds.
        self._dot_took = 0.0
        # Whether something said ahead was taken: what is refused then is refused for what it says.
        self._heeds_ahead = False
        # Called after each reply to what begins a transaction.
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
        """Connect, secure, authenticate. ``memory`` knows the server, and learns; ``observer`` is called after each
        transaction.

        ``heard`` is called after each answer of the server. Raises what ``open_connection`` raises.
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
        """Say MAIL, RCPT for each recipient and, when at least one was taken, DATA; in one go where the server offers
        PIPELINING (RFC 2920). What ``finish`` has said ahead is only listened for.

        A server that takes no more recipients is asked for no others; they are ``left``. ``before_saying`` is called
        directly before MAIL, also when it is said once more, and can prevent it by raising; ``heard`` after each reply.

        Raises ``Refused`` for MAIL and DATA, and for a 421 to any; ``ConnectionLost`` for all, ``OutOfStep`` where the
        replies may not be those to the commands; and ``NotOffered``, with nothing said yet, for addresses that need
        SMTPUTF8 (RFC 6531). What ends amid the recipients has their replies so far. A refused recipient is no exception
        but part of what is returned.
        """
        said = commands(self._smtp, opening)
        if self._said_ahead and self._said_ahead != said:
            self.close()
            raise ValueError("another transaction has been begun already")
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
        elif was_ahead and answers.somebody_was_accepted and answers.awaits_content:
            self._heeds_ahead = True
        return self._started(opening.envelope.recipients, answers)

    def _repeat(self, said: Sequence[Command], heard: Answers, before_saying: Callable[[], object] | None) -> Answers:
        """Say once more what was refused when it was said ahead: the server may have refused just that."""
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
        """What the replies come to; raises what ``begin`` raises."""
        if heard.mail is not None and heard.mail_was_refused:
            self.server.forget_tried()
            # There is no transaction then, and nothing to reset; unless the server went on as if there were one.
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
                # RFC 2920 §3.1 would have us send a lone dot, which might send an empty mail to those whom the
                # server thinks it has accepted. Closing sends none to anybody, and a decent server says no here.
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
        """Send the content, dot-stuffed, without the final dot; blocks of any size are sent as they come. A small end
        of it, which of most mails is all of it, is kept for ``finish``.

        Raises ``ConnectionLost``, ``Refused`` when the server did not wait for the end to say no, and whatever the
        blocks raise; the session is closed then.
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
        """Send what is left of the content and the final dot, and return the reply, all within ``timeout`` seconds.

        Along with the dot goes what ``begin`` will say to ``ahead``, where the server offers PIPELINING (RFC 2920
        §3.1); the next call then is that one, or ``close``.

        Raises ``ConnectionLost`` in phase ``FINAL_DOT``: then the server may or may not have the mail (RFC 1047). In
        phase ``CONTENT``, like ``Refused``, it says that the dot was not sent.
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
        self._begun_at = dot_at  # that of the next one, if it was said ahead
        if reply.code == 421 or reply.code in _STATE_UNKNOWN:
            self.close()
        elif said_ahead and not self.is_closed:
            self._in_transaction = True
            self._said_ahead = said_ahead
            self.transactions += 1
        return reply

    def _say_dot(self, along: bytes) -> None:
        """Send the rest of the content, the final dot and what goes ``along`` with it, in one write."""
        held, self._held = self._held, b""
        try:
            self._smtp.send(held + b".\r\n" + along)
        except OSError:
            # Whatever of it is gone, its end is not. That was the dot, unless something goes along with it.
            not_said = self._smtp.gone == 0 or (held and not along)
            if not_said and threading.current_thread() is not threading.main_thread():
                # (On the main thread the error may be that of a signal's handler, which runs after all is gone.)
                self._smtp.comes_to(Phase.CONTENT)
                self._heed_early_reply(Phase.CONTENT)
            raise

    def _ahead(self, opening: Opening) -> tuple[list[Command], bytes]:
        """What can be said to ``opening`` before the reply to the dot, and its octets; nothing where it takes more than
        one group.
        """
        if not self.can_say_ahead:
            return [], b""
        try:
            said = commands(self._smtp, opening)
            octets = self._smtp.octets(line for _, line in said)
        except (NotOffered, ValueError):
            return [], b""  # 'begin' says so, and what is wrong with it is not said of the mail before
        fits = len(said) < _AT_ONCE and len(self._held) + len(octets) <= ALONG_WITH_DOT
        return (said, octets) if fits else ([], b"")

    @property
    def can_say_ahead(self) -> bool:
        """Whether the next transaction can be begun along with a final dot, and that brings something: at a server that
        takes its time for the dot a round trip is nothing, and what was begun would wait for it.
        """
        return self._dot_took < _SLOW_DOT and self._at_once > 1 and self.quirks.pipelining is Pipelining.FULL

    @property
    def has_said_ahead(self) -> bool:
        """Whether the next transaction was begun along with the last final dot, and is not answered yet."""
        return bool(self._said_ahead)

    @property
    def quirks(self) -> Quirks:
        """What this session knows of its server."""
        return self.server.quirks

    @property
    def takes_utf8(self) -> bool:
        """Whether addresses beyond ASCII can be said (RFC 6531)."""
        return "smtputf8" in self._smtp.esmtp_features

    @property
    def _at_once(self) -> int:
        """How many commands go in one group."""
        allowed = self.relay.pipelining and self.quirks.pipelining is not Pipelining.NONE
        return _AT_ONCE if allowed and "pipelining" in self._smtp.esmtp_features else 1

    def _exchange(self, said: Sequence[Command]) -> Answers:
        """Say the commands of a transaction, in groups or one by one, as far as there is sense in going on.

        Gives the replies that came, and what ended the session among them, if anything did: it is closed then. Raises
        ``ConnectionLost`` for what is no reply, because then none of the others can be trusted to be in its place, and
        ``OutOfStep`` when a group may be to blame.
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
                if group[0][0] is Phase.DATA and not heard.somebody_was_accepted:
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
                        raise self._out_of_step(phase, "", reply, ahead=False)  # no other reply need come
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
        """Close, and have the next session try less at once; one that has carried mail may have ended by itself."""
        self.close()
        if ahead:
            self.server.suspect(pipelining=Pipelining.GROUPS)
        elif self.transactions == 1:
            self.server.suspect(pipelining=Pipelining.NONE)
        return OutOfStep(phase, detail, reply)

    def _reply(self, phase: Phase) -> Reply:
        """Hear the reply to a command. 2yz says yes, 354 to DATA; the other one is out of step with the commands."""
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
        """Raise, and close, if the server spoke or hung up before it was asked: it has not taken the mail.

        Before MAIL it cannot have been about this mail, so that only its farewell counts.
        """
        if not self._smtp.has_spoken():
            return
        with self._smtp.during(phase):
            # A reply is waited for, not the line: half of one must not hold us up for as long as a block may.
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
        """Leave the transaction so that the session can carry another; a session that cannot is closed."""
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
        """Open and between transactions: it can carry another mail."""
        return not self.is_closed and not self._in_transaction

    @property
    def tls_version(self) -> str:
        """'TLSv1.3', or '' for a session in the clear; also when it is closed."""
        return self._tls_version

    @property
    def was_hung_up(self) -> bool:
        """Whether the server said or closed something where it has no reason to: nothing was asked."""
        return self._smtp.has_spoken()

    def quit(self, *, timeout: float = QUIT_TIMEOUT) -> None:
        """End the session politely, waiting for the server's goodbye up to ``timeout`` seconds; never raises."""
        if not self.is_closed and timeout > 0:
            with contextlib.suppress(OSError):
                self._smtp.timeout = timeout
                self._smtp.docmd("QUIT")
        self.close()

    def close(self) -> None:
        """Close the connection without a word; what was not acknowledged is not sent."""
        self._held, self._said_ahead = b"", []
        self._smtp.close()
