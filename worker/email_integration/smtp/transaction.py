"""The commands of a transaction, and the server's answers to them (RFC 5321 §3.3)."""

from __future__ import annotations

from dataclasses import dataclass, field

from .dialogue import Connection
from .errors import NotOffered, SMTPFailure
from .relay import Opening
from .replies import Phase, Reply

#: A command and its phase.
Command = tuple[Phase, str]


@dataclass(frozen=True, kw_only=True)
class Started:
    """The result of ``Session.begin``.

    ``accepted`` are the recipients that may get the content, ``refused`` the rejected ones with their replies, and
    ``left`` those that were not sent because the server accepts no more in one transaction.
    """

    accepted: tuple[str, ...] = field(repr=False)
    refused: dict[str, Reply] = field(repr=False)
    left: tuple[str, ...] = field(default=(), repr=False)


@dataclass
class Answers:
    """The replies to the commands of a transaction so far, and the error that ended the session between them."""

    mail: Reply | None = None
    recipients: list[Reply] = field(default_factory=list)
    data: Reply | None = None
    end: SMTPFailure | None = None
    #: Whether all replies so far are positive.
    are_positive: bool = True

    def add(self, phase: Phase, reply: Reply) -> None:
        """Store the reply to a command of ``phase``."""
        if not (reply.positive or (phase is Phase.DATA and reply.code == 354)):
            self.are_positive = False
        if phase is Phase.MAIL:
            self.mail = reply
        elif phase is Phase.RCPT:
            self.recipients.append(reply)
        else:
            self.data = reply

    @property
    def all(self) -> list[Reply]:
        return [reply for reply in (self.mail, *self.recipients, self.data) if reply is not None]

    @property
    def mail_was_refused(self) -> bool:
        return self.mail is not None and not self.mail.positive

    @property
    def a_recipient_was_accepted(self) -> bool:
        return any(reply.positive for reply in self.recipients)

    @property
    def awaits_content(self) -> bool:
        return self.data is not None and self.data.code == 354

    @property
    def were_refused(self) -> bool:
        """Whether MAIL was permanently refused, or DATA was, or a recipient permanently and no other was accepted."""
        if self.mail is not None and self.mail_was_refused:
            return self.mail.permanent
        if self.a_recipient_was_accepted:
            return self.data is not None and not self.awaits_content
        return any(reply.permanent for reply in self.recipients)

    @property
    def are_enough(self) -> bool:
        """Whether the server says, or seems to say, that it accepts no more recipients in this transaction."""
        return any(reply.may_mean_too_many_recipients for reply in self.recipients)

    @property
    def before_too_many(self) -> int:
        """The number of recipients before the first such reply; 0 for none. Some servers count refused ones as well."""
        said = (place for place, reply in enumerate(self.recipients) if reply.says_too_many_recipients)
        return next(said, 0)

    @property
    def out_of_turn(self) -> tuple[Phase, Reply] | None:
        """The first reply by which the server's state contradicts its other replies, with its phase."""
        asked = [(Phase.MAIL, self.mail)]
        if not self.mail_was_refused:
            asked += [(Phase.RCPT, reply) for reply in self.recipients]
            asked += [(Phase.DATA, self.data)] if self.a_recipient_was_accepted else []
        return next(((phase, reply) for phase, reply in asked if reply and reply.is_out_of_turn), None)


def commands(connection: Connection, opening: Opening) -> list[Command]:
    """Return the commands that begin a transaction: MAIL with the offered and needed parameters, RCPT for each, DATA.

    Raises ``NotOffered`` for an address beyond ASCII that the server does not support (RFC 6531).
    """
    recipients = [(Phase.RCPT, f"RCPT TO:<{recipient}>") for recipient in opening.envelope.recipients]
    return [(Phase.MAIL, _mail(connection, opening)), *recipients, (Phase.DATA, "DATA")]


def _mail(connection: Connection, opening: Opening) -> str:
    utf8, offered = opening.envelope.needs_smtputf8, connection.esmtp_features
    if utf8 and "smtputf8" not in offered:
        raise NotOffered(Phase.MAIL, "the server does not accept addresses with non-ASCII characters (no SMTPUTF8)")
    connection.command_encoding = "utf-8" if utf8 else "ascii"
    said = f"MAIL FROM:<{opening.envelope.sender}>"
    if "size" in offered:
        said += f" SIZE={opening.size}"
    if (opening.eight_bit or utf8) and "8bitmime" in offered:
        said += " BODY=8BITMIME"
    return f"{said} SMTPUTF8" if utf8 else said
