"""The meaning of a reply's numbers: the enhanced code (RFC 3463, registry: RFC 5248), then the code (RFC 5321 §4.2).

An enhanced code with one meaning decides. For a code with several meanings the words decide: among all causes, or among
those of its subject.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from email_integration.smtp import Phase

from .causes import ABOUT_LOGIN, ACCOUNT_WIDE, Cause

OPENING = frozenset(phase for phase in Phase if phase.before_mail)
MAIL = frozenset({Phase.MAIL})
RCPT = frozenset({Phase.RCPT})
WHOLE = frozenset({Phase.DATA, Phase.CONTENT, Phase.FINAL_DOT})
ANYWHERE = frozenset(Phase)
#: In these phases an account, a mailbox or a login in a reply is the sender's.
OURS = OPENING | MAIL
ABOUT_RECIPIENT = RCPT | WHOLE
SENDING = MAIL | ABOUT_RECIPIENT

#: Codes that mean that the command itself was not understood (RFC 5321 §4.2.2, RFC 1869 §6).
DIALOGUE = frozenset({500, 501, 502, 503, 504, 555})

#: Causes that the words of a reply about a login may name (RFC 4954 §6). A server may refuse one for another reason.
_OF_A_LOGIN = ABOUT_LOGIN | ACCOUNT_WIDE | {Cause.LIMIT, Cause.CLIENT}
#: … and of a reply about the dialogue. Servers also send such replies before a login, and for an unwanted name.
_OF_THE_DIALOGUE = _OF_A_LOGIN | {Cause.BAD_ADDRESS}
_NOTHING: frozenset[Cause] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """The meaning is ``cause``, unless the words name one ``among`` these."""

    cause: Cause
    among: frozenset[Cause] = _NOTHING


@dataclass(frozen=True, kw_only=True)
class _Entry:
    phases: frozenset[Phase]
    meaning: Meaning
    classes: str


def _entries() -> dict[str, list[_Entry]]:
    found: dict[str, list[_Entry]] = {}

    def means(
        cause: Cause,
        *details: str,
        where: frozenset[Phase] = SENDING,
        among: frozenset[Cause] = _NOTHING,
        classes: str = "45",
    ) -> None:
        entry = _Entry(phases=where, meaning=Meaning(cause=cause, among=among), classes=classes)
        for detail in details:
            found.setdefault(detail, []).append(entry)

    # -- X.1, addresses. For MAIL there is no recipient yet; a reply to RCPT or later that names one means it.
    means(Cause.NO_MAILBOX, "1.1", where=ABOUT_RECIPIENT)
    means(Cause.NO_DOMAIN, "1.2", where=ABOUT_RECIPIENT)
    means(Cause.BAD_ADDRESS, "1.3", "1.4", where=ABOUT_RECIPIENT)
    means(Cause.MOVED, "1.6", where=ABOUT_RECIPIENT)
    means(Cause.NO_MAIL_DOMAIN, "1.10", where=ABOUT_RECIPIENT)
    means(Cause.SENDER, "1.7", "1.8")
    # -- X.2, mailboxes --
    means(Cause.DISABLED, "2.1", where=ABOUT_RECIPIENT)
    means(Cause.FULL, "2.2", where=ABOUT_RECIPIENT)
    means(Cause.TOO_BIG, "2.3")
    means(Cause.LIST, "2.4", where=ABOUT_RECIPIENT)
    # -- X.3, the system --
    means(Cause.NO_SPACE, "3.1")
    means(Cause.TOO_BIG, "3.4")
    means(Cause.TROUBLE, "3.5")
    # -- X.4, the network --
    means(Cause.NETWORK, "4.1", "4.3", "4.4", "4.7")
    means(Cause.LOOP, "4.6")
    # -- X.5, the dialogue. At a login it means that the server does not know the mechanism.
    means(Cause.PROTOCOL, "5.1", "5.2", "5.4", "5.5", "5.6", where=SENDING, among=_OF_THE_DIALOGUE)
    means(Cause.TOO_MANY_RECIPIENTS, "5.3", where=ABOUT_RECIPIENT)
    means(Cause.LIMIT, "5.3", where=MAIL)  # there are no recipients yet: OpenSMTPD counts mails
    # -- X.6, the content --
    means(Cause.CONTENT, "6.1", "6.2", "6.3", "6.5", "6.6")
    means(Cause.NO_SMTPUTF8, "6.7", "6.8", "6.9", "6.10")
    # -- X.7, security and policy. X.7.0 and X.7.1 are used for everything.
    means(Cause.LIST, "7.2", where=ABOUT_RECIPIENT)
    means(Cause.LOGIN, "7.8", "7.9", where=ANYWHERE - RCPT, among=_OF_A_LOGIN)
    means(Cause.LOGIN, "7.12", where=OURS, among=_OF_A_LOGIN)
    means(Cause.STARTTLS_FIRST, "7.10", "7.11", where=ANYWHERE)
    means(Cause.LOCKED, "7.13", where=ANYWHERE - RCPT)
    means(Cause.DISABLED, "7.13", where=RCPT)
    means(Cause.TOO_BIG, "7.16")
    means(Cause.UNPROVEN, "7.20", "7.21", "7.22", "7.23", "7.24", "7.26", "7.29")
    means(Cause.CLIENT, "7.25", where=ANYWHERE)
    means(Cause.SENDER, "7.27")
    means(Cause.LIMIT, "7.28", where=ANYWHERE, classes="4")
    means(Cause.SPAM, "7.28", classes="5")
    # Microsoft's meaning, not RFC 8689's: this app never sends REQUIRETLS.
    means(Cause.PASSWORDS_OFF, "7.30", where=ANYWHERE)
    # -- Microsoft's own, without another meaning elsewhere. For the page see tests/provider_replies.py.
    means(Cause.ACCOUNT_QUOTA, "1.90", "7.232", "7.233", "7.236", where=ANYWHERE)
    means(Cause.ACCOUNT_RATE, "2.251", "2.253", "2.254", "2.255", where=ANYWHERE)
    means(Cause.SENDER_NOT_ALLOWED, "2.252", "7.60", "7.750")
    means(Cause.CONTENT, "1.20", "7.512")
    means(Cause.MAILBOX_BUSY, "2.121", "2.122", where=ABOUT_RECIPIENT)
    means(Cause.NO_DOMAIN, "4.310", where=ABOUT_RECIPIENT)
    means(Cause.LOOP, "4.14")
    means(Cause.RELAYING, "7.54", "7.64")
    means(Cause.LOGIN_NEEDED, "7.57", where=ANYWHERE)
    means(Cause.LOGIN, "7.139", where=ANYWHERE - RCPT, among=_OF_A_LOGIN)
    means(Cause.UNWANTED, "7.12", "7.124", "7.133", "7.134", "7.136", "7.504", "7.505", where=ABOUT_RECIPIENT)
    means(Cause.LIMIT, *_details(500, 700), *_details(850, 900), where=ANYWHERE, classes="4")
    means(Cause.ACCOUNT_BLOCKED, "7.501", "7.502", "7.503", "7.705", where=ANYWHERE, classes="5")
    means(Cause.LIMIT, "7.508", where=ANYWHERE, classes="5")
    means(Cause.CLIENT, "7.506", "7.507", "7.510", "7.511", "7.513", *_details(606, 650), where=ANYWHERE, classes="5")
    means(Cause.ACCOUNT_IP, "7.708", where=ANYWHERE)
    means(Cause.SENDER, "7.800", classes="5")
    return found


def _details(first: int, beyond: int) -> list[str]:
    return [f"7.{number}" for number in range(first, beyond)]


_ENHANCED = _entries()


def meaning(phase: Phase, code: int, enhanced: str) -> Meaning | None:
    """Return the meaning of the enhanced code in ``phase``, else of a code that is as precise.

    None means that only the words decide.
    """
    found = _of_enhanced(phase, enhanced)
    if phase is Phase.MAIL and code in DIALOGUE:
        # Not about the sender, unless 'syntax error' comes with the enhanced code for its syntax or its domain.
        about_sender = code in (501, 555) and enhanced[2:] in ("1.7", "1.8")
        about_us = found is not None and found.cause in _OF_A_LOGIN
        return found if about_sender or about_us else Meaning(cause=Cause.PROTOCOL, among=_OF_A_LOGIN)
    return found or _of_code(phase, code, enhanced)


def _of_enhanced(phase: Phase, enhanced: str) -> Meaning | None:
    entries = _ENHANCED.get(enhanced[2:], ())
    return next((one.meaning for one in entries if phase in one.phases and enhanced[0] in one.classes), None)


def _of_code(phase: Phase, code: int, enhanced: str) -> Meaning | None:
    # Of the enhanced code only the subject counts: a reply about an address or a mailbox is not about a login.
    about_mailbox = phase is Phase.RCPT and enhanced[2:4] in ("1.", "2.")
    if code in (530, 534, 535, 538) and not about_mailbox:
        return Meaning(cause=Cause.LOGIN_NEEDED if code == 530 else Cause.LOGIN, among=_OF_A_LOGIN)
    if code == 525 and phase is not Phase.RCPT:
        return Meaning(cause=Cause.LOGIN, among=_OF_A_LOGIN)
    if code == 523 and phase in OURS:
        return Meaning(cause=Cause.STARTTLS_FIRST)
    if code == 432:
        return Meaning(cause=Cause.LIMIT, among=_OF_A_LOGIN | {Cause.MAILBOX_BUSY, Cause.TOO_MANY_RECIPIENTS})
    if code in (521, 556) and phase in ABOUT_RECIPIENT:
        return Meaning(cause=Cause.NO_MAIL_DOMAIN)  # RFC 7504 and RFC 7505
    return None


def by_numbers(phase: Phase, code: int, enhanced: str) -> Cause | None:
    """Return the cause by code and subject, for replies whose words say nothing."""
    subject = enhanced[2:4]
    for codes, phases, subjects, cause in _BY_NUMBERS:
        if code in codes and phase in phases and (subjects is None or subject in subjects):
            return cause
    return None


_4YZ, _5YZ, _ANY = range(400, 500), range(500, 600), range(400, 600)
_NONE = ("",)
_NO_MAILBOX = ("", "0.", "3.", "4.", "5.", "6.", "7.")

#: Code, phase, subject (None is any, '' is no enhanced code), cause; the first match is used.
_BY_NUMBERS: tuple[tuple[Container[int], frozenset[Phase], tuple[str, ...] | None, Cause], ...] = (
    ((421,), ANYWHERE, None, Cause.UNAVAILABLE),
    ((454,), ANYWHERE, _NO_MAILBOX, Cause.UNAVAILABLE),
    (_5YZ, frozenset({Phase.AUTH}), None, Cause.LOGIN),
    (range(550, 560), OPENING - {Phase.STARTTLS}, None, Cause.CLIENT),
    ((552,), MAIL, _NONE, Cause.TOO_BIG),  # RFC 1870 §6: SIZE is a parameter of MAIL
    (frozenset(_5YZ) - DIALOGUE, MAIL, None, Cause.SENDER),
    ((552,), WHOLE, _NONE, Cause.TOO_BIG),
    ((552,), RCPT, _NONE, Cause.FULL),
    ((551,), RCPT, None, Cause.MOVED),
    ((553,), RCPT, None, Cause.BAD_ADDRESS),
    ((451,), SENDING, _NONE, Cause.TROUBLE),
    ((452,), SENDING, _NONE, Cause.NO_SPACE),
    (_ANY, SENDING, ("3.",), Cause.TROUBLE),
    (_ANY, SENDING, ("4.",), Cause.NETWORK),
    (_ANY, ANYWHERE, ("5.",), Cause.PROTOCOL),
    (DIALOGUE, ANYWHERE, None, Cause.PROTOCOL),
    (_ANY, SENDING, ("6.",), Cause.CONTENT),
    (_ANY, SENDING, ("7.",), Cause.POLICY),
)
