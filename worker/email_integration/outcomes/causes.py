"""Why a server refused, recognised by its reply, in words that hold neither addresses nor the server's text.

Servers agree on the numbers (RFC 5321 §4.2.3, RFC 3463 and its registry of RFC 5248) and use the general ones for
almost everything, so each rule looks at the code, the enhanced code and the words. The first that fits wins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from email_integration.smtp import Phase, Reply
from email_integration.smtp.auth import TOKEN_REFUSED


class Cause(StrEnum):
    """Why a server refused; the value is what people read."""

    # Us: the connection, the login, the account.
    OUT_OF_TURN = "the server's answer makes no sense here"
    STARTTLS_FIRST = "the server wants an encrypted connection first"
    PASSWORDS_OFF = "the server takes no logins by user name and password: basic authentication is turned off"
    LOCKED = "the server says our account is locked or disabled"
    TOO_MANY_LOGINS = "too many logins have failed, and the server wants a pause"
    TOKEN = "the server refused the OAuth token: check its scope, and whether the app may send for this mailbox"  # noqa: S105
    APP_PASSWORD = "the login is wrong: the server wants an app password with the user name"  # noqa: S105  # words
    LOGIN = "the login is wrong: check user name and password of the configuration"
    LOGIN_NEEDED = "the server wants a login: check user name and password of the configuration"
    LOGIN_LATER = "the server cannot set up the login or the encryption at the moment"
    LIMIT = "the server limits how much we send, and the limit is reached"
    UNAVAILABLE = "the server is not available at the moment"
    CLIENT = "the server takes no mail from the address of this machine"
    RELAYING = "the server does not relay for us"
    DENIED = "the server denies us access"
    # The sender.
    SENDER = "the server does not accept the sender"
    UNPROVEN = "the server cannot verify that the mail comes from its sender (SPF, DKIM or DMARC)"
    # The recipient.
    TOO_MANY_RECIPIENTS = "too many recipients at a time"
    NO_MAILBOX = "the server says the mailbox does not exist"
    MOVED = "the server says the mailbox has moved"
    DISABLED = "the mailbox is disabled"
    FULL = "the mailbox is full"
    MAILBOX_BUSY = "the mailbox gets more mail than it takes at a time"
    BAD_ADDRESS = "the address is not allowed"
    NO_DOMAIN = "the domain of the address does not exist"
    NO_MAIL_DOMAIN = "the domain of the address takes no mail"
    LIST = "the mailing list does not take our mail"
    UNWANTED = "the server does not take our mail for this address"
    # The mail.
    TOO_BIG = "the mail is too big"
    SPAM = "the server's policy refuses the mail: it looks like spam"
    VIRUS = "the server's policy refuses the mail: something in it is taken for dangerous"
    POLICY = "the server's policy refuses the mail"
    CONTENT = "the server cannot handle the mail's content"
    NO_SMTPUTF8 = "the server cannot take addresses with letters beyond ASCII (no SMTPUTF8)"
    # The server.
    GREYLISTED = "the server asks us to come back later: greylisting"
    BUSY = "the server is busy and asks us to come back later"
    NO_SPACE = "the server has no space left"
    TROUBLE = "the server has trouble of its own"
    NETWORK = "the server cannot pass the mail on"
    LOOP = "the server says the mail goes round in circles"
    PROTOCOL = "the server did not understand us"


def reason(phase: Phase, reply: Reply) -> str:
    """Say why ``reply`` refused what was said in ``phase``: at most 255 characters, ending with the codes."""
    words = recognise(phase, reply) or f"{_WHAT.get(phase, 'the connection')} was {_done(reply)}"
    return f"{words} ({reply.short})"


def recognise(phase: Phase, reply: Reply) -> Cause | None:
    """Return what the server means; None when it says no more than no."""
    said = _comparable(reply)
    return next((rule.cause for rule in _RULES if phase in rule.phases and rule.pattern.search(said)), None)


def quote(reply: Reply) -> str:
    """Return the server's text as one line of at most 500 characters; it may hold addresses."""
    return f"{reply.enhanced} {_one_line(reply.text)}".strip()[:500]


def _done(reply: Reply) -> str:
    return "refused" if reply.permanent else "put off"


_WHAT = {
    Phase.MAIL: "the sender",
    Phase.RCPT: "the recipient",
    Phase.DATA: "the mail",
    Phase.CONTENT: "the mail",
    Phase.FINAL_DOT: "the mail",
}

#: Servers repeat the enhanced code in front of each line.
_REPEATED = re.compile(r"^[245]\.\d{1,3}\.\d{1,3}(?:\s|$)", re.M)
#: An address can hold any word. It begins where a word does: a search from the middle of each would take its time.
_ADDRESS = re.compile(r"<[^<>\s@]*@[^<>]*>|(?<![^\s<>])[^\s<>@]+@[^\s<>]+")
#: qmail and its heirs have the enhanced code at the end.
_AT_THE_END = re.compile(r"#([245]\.\d{1,3}\.\d{1,3})\)")


def _one_line(text: str) -> str:
    # A reply can be megabytes long. NUL, which PostgreSQL does not take, and what plays tricks on screens go as well.
    text = _REPEATED.sub("", text[:4000])
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def _comparable(reply: Reply) -> str:
    """Return 'code enhanced-code words', with '-' for no enhanced code."""
    words = _ADDRESS.sub("", _one_line(reply.text)[:1000])
    at_the_end = _AT_THE_END.search(words)
    enhanced = reply.enhanced or (at_the_end[1] if at_the_end and at_the_end[1][0] == str(reply.code)[0] else "-")
    return f"{reply.code} {enhanced} {words}"


@dataclass(frozen=True)
class _Rule:
    cause: Cause
    pattern: re.Pattern[str]
    phases: frozenset[Phase]


def _rule(cause: Cause, pattern: str, phases: frozenset[Phase] = frozenset(Phase)) -> _Rule:
    return _Rule(cause, re.compile(pattern, re.I), phases)


def _status(*statuses: str) -> str:
    """A pattern for enhanced codes, whatever their first digit."""
    return rf"^\d+ \d\.(?:{'|'.join(map(re.escape, statuses))}) "


_OPENING = frozenset(phase for phase in Phase if phase.before_mail)
_MAIL = frozenset({Phase.MAIL})
_RCPT = frozenset({Phase.RCPT})
_WHOLE = frozenset({Phase.DATA, Phase.CONTENT, Phase.FINAL_DOT})
#: What is said here of an account or a login is said of ours, not of a mailbox.
_OURS = _OPENING | _MAIL
_ABOUT_RECIPIENT = _RCPT | _WHOLE
_SENDING = _MAIL | _ABOUT_RECIPIENT
#: What is said before the content is known cannot be about it.
_BEFORE_CONTENT = frozenset(Phase) - _WHOLE

_RULES = (
    _rule(Cause.OUT_OF_TURN, r"^(?![45]\d\d )"),
    _rule(Cause.GREYLISTED, r"^4.*\bgr[ea]y[- ]?list"),
    # -- us --
    # In our own words, as the login puts them before the server's.
    _rule(Cause.TOKEN, rf"^5.*{TOKEN_REFUSED}", frozenset({Phase.AUTH})),
    _rule(Cause.STARTTLS_FIRST, r"must issue a STARTTLS|STARTTLS (is )?required"),
    _rule(Cause.STARTTLS_FIRST, rf"encryption (is )?required|^523 |{_status('7.10', '7.11')}", _OURS),
    # X.7.30 is Microsoft's here, not RFC 8689's: we never say REQUIRETLS.
    _rule(Cause.PASSWORDS_OFF, _status("7.30") + r"|SmtpClientAuthentication is disabled|smtp_auth_disabled"),
    _rule(Cause.PASSWORDS_OFF, r"basic authentication is (disabled|not supported)"),
    _rule(Cause.LOCKED, _status("7.13") + r"(?!unauth)", frozenset(Phase) - _RCPT),
    _rule(
        Cause.LOCKED, r"^5.*(log in via your web browser|\byour account\b.{0,40}\b(locked|disabled|suspended|paused))"
    ),
    _rule(Cause.LOCKED, r"^5.*\b(sending|outbound)\b.{0,30}\b(suspended|paused|disabled|blocked)|bad outbound sender"),
    _rule(Cause.LOCKED, r"^5.*\b(account|user|mailbox)\b.{0,40}\b(locked|disabled|suspended|blocked)", _OURS),
    _rule(Cause.TOO_MANY_LOGINS, r"too many (failed |bad )?(log-?ins?|auth\w*|attempts)", _OURS),
    _rule(Cause.APP_PASSWORD, r"app(lication)?(-specific)? password|InvalidSecondFactor|BadCredentials"),
    _rule(Cause.APP_PASSWORD, r"Username and Password not accepted"),
    _rule(Cause.CLIENT, r"unauthori[sz]ed ip|banned sending ip|invalid credentials for relay"),
    _rule(Cause.LOGIN, r"^53[458] ", frozenset(Phase) - _RCPT),
    _rule(Cause.LOGIN, r"^53[458] (?!\d\.[12]\.)", _RCPT),
    _rule(Cause.LOGIN, rf"^525 |{_status('7.8', '7.9', '7.12')}", frozenset(Phase) - _RCPT),
    _rule(Cause.LOGIN_NEEDED, r"^5.*(auth\w* (is )?required|not authenticated|log ?in first)", _OURS),
    _rule(Cause.LOGIN_NEEDED, r"^530 ", frozenset(Phase) - _RCPT),
    _rule(Cause.LOGIN_NEEDED, r"^530 (?!\d\.[12]\.)", _RCPT),
    # -- limits: of a mailbox, of a transaction, ours --
    _rule(Cause.MAILBOX_BUSY, r"(user|recipient|mailbox)\b.{0,60}\breceiving\b|recipient (thread|rate) ?limit"),
    _rule(Cause.MAILBOX_BUSY, r"too (many|much)\b.{0,20} (for|to) th(is|e) (recipient|user|mailbox)"),
    _rule(Cause.TOO_MANY_RECIPIENTS, _status("5.3"), _SENDING),
    _rule(Cause.LIMIT, r"too (many recipients|much mail) from"),
    _rule(
        Cause.LIMIT,
        r"^(?!\d+ \d\.[23]\.[1234] |.*\bsize\b).*\b(daily|hourly|sending|outgoing)\b.{0,40}\b(limits?|quotas?)\b",
    ),
    _rule(Cause.LIMIT, r"\b(e?mails|messages|recipients) per (second|minute|hour|day)\b|^5\d\d 5\.(1\.90|7\.23[236]) "),
    _rule(Cause.TOO_MANY_RECIPIENTS, r"too many (rcpts?|recipients)|recipients?\b.{0,20}\b(limit|maximum)", _SENDING),
    _rule(Cause.LIMIT, r"^4\d\d 4\.7\.(28|500|65\d) |^432 |throttl|^4.*un(expected|usual) (volume|rate)"),
    _rule(
        Cause.LIMIT,
        r"^4\d\d (?!\d\.[12]\.).*(rate.?limit|\brate\b.{0,30}\bexceed|concurrent (connections|sending)|thread limit"
        r"|too (many|fast|quickly)\b|slow down)",
    ),
    # -- access --
    _rule(Cause.RELAYING, r"relay(ing)?\b.*\b(denied|prohibited|not permitted|not allowed)|unable to relay"),
    _rule(Cause.RELAYING, r"not (permitted|allowed) to relay|(do|does|will) not relay|rcpthosts"),
    _rule(Cause.RELAYING, r"^5.*(auth\w* (is )?required|not authenticated|log ?in first)", _RCPT),
    _rule(Cause.LOGIN_LATER, r"^454 (- |4\.7\.).*(auth|log ?in|credential|tls|encrypt)|^454 4\.7\.0 "),
    # -- the sender --
    _rule(Cause.UNPROVEN, _status("7.20", "7.21", "7.22", "7.23", "7.24", "7.26", "7.29"), _SENDING),
    _rule(Cause.SENDER, _status("1.7", "1.8", "7.27"), _SENDING),
    _rule(Cause.SENDER, r"send as\b|SendAsDenied|not verified|from address|not authorized to send", _SENDING),
    _rule(Cause.SENDER, r"sender verify|invalid sender", _SENDING),
    _rule(Cause.SENDER, r"sender\b.{0,80}(reject|refus|denied|not allowed|not owned|not permitted|unknown)", _SENDING),
    _rule(Cause.UNPROVEN, r"\b(SPF|DKIM|DMARC)\b", _SENDING),
    # -- the recipient, by enhanced code --
    _rule(Cause.NO_MAILBOX, _status("1.1") + r"|^5\d\d 5\.4\.1 .*recipient address rejected", _ABOUT_RECIPIENT),
    _rule(Cause.NO_DOMAIN, _status("1.2", "4.310"), _ABOUT_RECIPIENT),
    _rule(Cause.BAD_ADDRESS, _status("1.3", "1.4"), _ABOUT_RECIPIENT),
    _rule(Cause.MOVED, _status("1.6"), _ABOUT_RECIPIENT),
    # RFC 7505 and RFC 7504.
    _rule(Cause.NO_MAIL_DOMAIN, _status("1.10") + r"|^5(21|56) |null ?mx", _ABOUT_RECIPIENT),
    _rule(Cause.DISABLED, _status("2.1"), _ABOUT_RECIPIENT),
    _rule(Cause.DISABLED, _status("7.13"), _RCPT),
    _rule(Cause.FULL, _status("2.2"), _ABOUT_RECIPIENT),
    _rule(Cause.LIST, _status("2.4", "7.2"), _ABOUT_RECIPIENT),
    # -- the mail and the server, by enhanced code --
    _rule(Cause.TOO_BIG, _status("2.3", "3.4", "7.16"), _SENDING),
    _rule(Cause.NO_SPACE, _status("3.1"), _SENDING),
    _rule(Cause.LOOP, _status("4.6", "4.14"), _SENDING),
    _rule(Cause.NO_SMTPUTF8, _status("6.7", "6.8", "6.9", "6.10"), _SENDING),
    _rule(Cause.CLIENT, _status("7.25")),
    # -- by words --
    _rule(
        Cause.FULL,
        r"over ?quota|quota (is )?(exceeded|full)|(mailbox|mail ?folder|inbox).{0,20}\bfull",
        _ABOUT_RECIPIENT,
    ),
    _rule(Cause.FULL, r"mailbox\b.{0,20}\bexceed|exceed\w* (its |the )?(mailbox|quota)", _ABOUT_RECIPIENT),
    _rule(Cause.TOO_BIG, r"size\b.{0,30}\b(exceed|limit)|exceed\w*\b.{0,40}\bsize|maximum (message )?size", _SENDING),
    _rule(Cause.TOO_BIG, r"(message|mail|attachment|content|size)\b.{0,40}\btoo (big|large|long)", _SENDING),
    _rule(Cause.NO_SPACE, r"insufficient (system )?(storage|resources|disk)|(disk|no|out of) (disk )?space", _SENDING),
    _rule(Cause.LOOP, r"too many hops|hop count|\bmail loop|looping", _SENDING),
    _rule(Cause.UNWANTED, r"recipient\b.{0,40}\breject\w*:? access denied|^5.*mailbox unavailable", _ABOUT_RECIPIENT),
    _rule(Cause.CLIENT, r"\bip\b.{0,60}(block|banned|denied|not (allowed|authori[sz]ed|permitted|match|registered))"),
    _rule(Cause.CLIENT, r"client host.{0,80}(reject|block|denied)|helo.{0,40}reject|reverse (dns|hostname)"),
    _rule(Cause.CLIENT, r"blocked using|spamhaus|bl(ack|ock) ?list", _BEFORE_CONTENT),
    _rule(Cause.DENIED, r"access denied"),
    _rule(Cause.CLIENT, r"^55", _OPENING - {Phase.STARTTLS, Phase.AUTH}),
    _rule(Cause.NO_MAIL_DOMAIN, r"domain\b.{0,40}\b(not accept|no mail)", _RCPT),
    _rule(Cause.NO_DOMAIN, r"(domain|host)\b.{0,40}\b(not found|(does not|doesn't) exist|unknown|no mx)", _RCPT),
    _rule(Cause.NO_DOMAIN, r"no such domain|unknown domain", _RCPT),
    _rule(
        Cause.DISABLED,
        r"\b(account|user|mailbox|address|recipient)\b.{0,40}\b(disabled|suspended|inactive|deactivated|discontinued"
        r"|locked|blocked|closed)",
        _ABOUT_RECIPIENT,
    ),
    _rule(
        Cause.NO_MAILBOX,
        r"\b(user|recipient|mailbox|account|address)\b.{0,40}\b(unknown|not found|(does not|doesn't|not) exist)"
        r"|unknown (user|recipient|mailbox|address|local)|no such (user|recipient|mailbox|person|address|account)"
        r"|(doesn't|does not) have an? .{0,40}account|no mailbox here|invalid (recipient|mailbox|user)|unrouteable"
        r"|not a valid (recipient|mailbox|user)",
        _ABOUT_RECIPIENT,
    ),
    _rule(Cause.BAD_ADDRESS, r"^5\d\d (-|5\.[15]\.\d+) .*(mailbox name|address syntax|(bad|invalid) address)", _RCPT),
    _rule(Cause.VIRUS, r"\bvirus|malware|malicious|potential security|infected", _SENDING),
    _rule(Cause.VIRUS, r"(banned|illegal|blocked|prohibited) (attachment|file)", _SENDING),
    _rule(Cause.SPAM, r"\bspam\b|spamhaus|unsolicited|\bjunk\b|\bbulk\b|bl(ack|ock) ?list|reputation", _SENDING),
    _rule(Cause.SPAM, r"content\b.{0,20}\b(reject|refus|denied|block)|^5\d\d 5\.7\.28 ", _SENDING),
    # Said of one mail; a server that is short of something says X.3.Z.
    _rule(
        Cause.GREYLISTED,
        r"^45[01] 4\.7\.1 (?!.*service).*(delay|\btry|come back|retry|\blater|temporarily (rejected|deferred))",
        _SENDING,
    ),
    _rule(Cause.UNAVAILABLE, r"^421 "),
    _rule(Cause.UNAVAILABLE, r"^454 (?!\d\.[12]\.)"),
    _rule(Cause.SENDER, r"^5(?!0[0-4] )", _MAIL),
    _rule(
        Cause.BUSY, r"^4.*(\bbusy|overload|try again|\blater\b|come back|unavailable|congest|temporarily)|^4.. 4\.3\.2 "
    ),
    # -- by numbers alone --
    _rule(Cause.TOO_BIG, r"^552 - ", _MAIL | _WHOLE),
    _rule(Cause.FULL, r"^552 - ", _RCPT),
    _rule(Cause.MOVED, r"^551 ", _RCPT),
    _rule(Cause.BAD_ADDRESS, r"^553 ", _RCPT),
    _rule(Cause.LOGIN, r"^5", frozenset({Phase.AUTH})),
    _rule(Cause.TROUBLE, r"^\d+ \d\.3\.|^451 - ", _SENDING),
    _rule(Cause.NO_SPACE, r"^452 - ", _SENDING),
    _rule(Cause.NETWORK, r"^\d+ \d\.4\.", _SENDING),
    _rule(Cause.PROTOCOL, r"^\d+ \d\.5\.|^5(0[0-4]|55) "),
    _rule(Cause.CONTENT, r"^\d+ \d\.6\.", _SENDING),
    _rule(Cause.POLICY, r"^\d+ \d\.7\.|\bpolicy\b", _SENDING),
)
