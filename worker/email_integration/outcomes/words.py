"""General words of replies, which many servers use: they count only where the numbers leave a choice."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from email_integration.smtp import Phase

from .causes import Cause
from .codes import ABOUT_RECIPIENT, ANYWHERE, MAIL, OURS, RCPT, SENDING, WHOLE


def recognise(
    phase: Phase, code: int, enhanced: str, text: str, *, among: Collection[Cause] | None = None
) -> Cause | None:
    """Return the cause that ``text`` names, if it is ``among`` these causes; None for unknown words."""
    if among is not None and not among:
        return None
    return next(
        (
            rule.cause
            for rule in _RULES
            if phase in rule.phases
            and (among is None or rule.cause in among)
            and rule.codes.match(str(code))
            and rule.enhanced.match(enhanced)
            and rule.words.search(text)
        ),
        None,
    )


@dataclass(frozen=True)
class _Rule:
    cause: Cause
    words: re.Pattern[str]
    phases: frozenset[Phase]
    codes: re.Pattern[str]
    enhanced: re.Pattern[str]


def _rule(
    cause: Cause, words: str, phases: frozenset[Phase] = ANYWHERE, *, codes: str = "", enhanced: str = ""
) -> _Rule:
    """Return a rule; ``codes`` and ``enhanced`` match the beginning of the numbers."""
    return _Rule(cause, re.compile(words, re.I), phases, re.compile(codes), re.compile(enhanced))


#: A reply before the content is known cannot be about the content.
_BEFORE_CONTENT = ANYWHERE - WHOLE

_LOGIN_FIRST = (
    r"auth\w* (is )?required|not authenticated|unauthenticated senders|must (be )?(authenticat|log ?in)"
    r"|(log ?in|auth(enticate)?)( command)? first"
)
#: Not a limit of sending: the limit of a mail's size.
_NO_SIZE = r"^(?!.*\bsize\b).*"
#: 552 without another reason is about the size (RFC 1870 §6).
_NO_552 = "4|5(?!52)"
_OUT_OF_USE = r"(locked|disabled|suspended|blocked)"
#: Nor the limit of a mailbox.
_NO_MAILBOX = r"^(?!.*\b(size|mailbox|inbox|recipients?)\b).*"
#: 50z means that the command was not understood.
_NO_DIALOGUE = "4|5[1-9]"
_NOT_OF_A_MAILBOX = r"(?!\d\.[12]\.)"

#: The first match is used.
_RULES = (
    _rule(Cause.GREYLISTED, r"\bgr[ea]y[- ]?list", codes="4"),
    # -- the login and the encryption --
    _rule(Cause.STARTTLS_FIRST, r"must issue a STARTTLS|STARTTLS (is )?required"),
    _rule(Cause.STARTTLS_FIRST, r"encryption (is )?required", OURS),
    _rule(Cause.PASSWORDS_OFF, r"SmtpClientAuthentication is disabled|smtp_auth_disabled"),
    _rule(Cause.PASSWORDS_OFF, r"basic authentication is (disabled|not supported)"),
    _rule(Cause.LOCKED, r"log in (via|with|through) your web browser", codes="5"),
    # The account may still send with another sender. After MAIL it may be the content that is blocked.
    _rule(Cause.SENDER_NOT_ALLOWED, rf"\bsender\b(?!.{{0,40}}\bip\b).{{0,40}}\b{_OUT_OF_USE}", MAIL, codes="5"),
    _rule(
        Cause.SENDER_NOT_ALLOWED,
        rf"\bsender('s)? (e?-?mail )?(address|account|mailbox)( is| was| has been)? {_OUT_OF_USE}",
        ABOUT_RECIPIENT,
        codes="5",
    ),
    _rule(
        Cause.LOCKED,
        r"\byour (\w+ )?account\b.{0,40}\b(locked|disabled|suspended|paused|blocked|not (yet )?(been )?activated)",
        codes="5",
    ),
    _rule(Cause.LOCKED, r"\b(sending|outbound|outgoing)\b.{0,30}\b(suspended|paused|disabled|blocked)", codes="5"),
    _rule(Cause.LOCKED, r"\bsmtp (access|relay|service)\b.{0,20}\b(suspended|disabled|blocked)", codes="5"),
    _rule(Cause.LOCKED, r"\b(account|user|mailbox)\b.{0,40}\b(locked|disabled|suspended|blocked)", OURS, codes="5"),
    _rule(Cause.TOO_MANY_LOGINS, r"too many (failed |bad )?(log-?ins?|auth\w*|attempts)", OURS),
    _rule(Cause.APP_PASSWORD, r"app(lication)?(-specific)? password|InvalidSecondFactor|BadCredentials"),
    _rule(Cause.APP_PASSWORD, r"Username and Password not accepted"),
    _rule(Cause.CLIENT, r"unauthori[sz]ed ip|banned sending ip|credentials for relay"),
    # -- the account --
    _rule(Cause.ACCOUNT_CREDIT, r"\bcredits?\b.{0,30}\b(exceed|exhaust|used up|run out|expired)", OURS),
    _rule(Cause.ACCOUNT_CREDIT, r"(out of|no|insufficient|not enough) (more |sending |e?mail )?credits?\b", OURS),
    _rule(Cause.ACCOUNT_CREDIT, r"\b(trial|plan|subscription|licen[cs]e)\b.{0,40}\b(expired|ended|is over)", OURS),
    _rule(
        Cause.ACCOUNT_CREDIT,
        r"\byour (\w+ )?(credits?|plan|trial|subscription)\b.{0,40}\b(exceed|exhaust|used up|run out|expired|ended)",
    ),
    _rule(Cause.ACCOUNT_FULL, r"(mailbox|mail ?folder|inbox).{0,20}\bfull", MAIL),
    _rule(Cause.LOGIN_NEEDED, _LOGIN_FIRST, OURS, codes="5"),
    # Microsoft's replies with its own numbers.
    _rule(Cause.ACCOUNT_BLOCKED, r"\btenant has exceeded\b", codes="5"),
    _rule(Cause.ACCOUNT_IP, r"\btraffic not accepted from this IP\b", codes="5"),
    # -- limits: of a mailbox, of a transaction, of sending --
    _rule(Cause.MAILBOX_BUSY, r"(user|recipient|mailbox)\b.{0,60}\breceiving\b|recipient (thread|rate) ?limit"),
    _rule(Cause.MAILBOX_BUSY, r"too (many|much)\b.{0,20} (for|to) th(is|e) (recipient|user|mailbox)"),
    _rule(Cause.LIMIT, r"too (many recipients|much mail) from"),
    _rule(
        Cause.LIMIT, rf"{_NO_SIZE}\b(daily|hourly|monthly|sending|outgoing|messaging)\b.{{0,40}}\b(limits?|quotas?)\b"
    ),
    _rule(Cause.LIMIT, r"\b(e?mails|messages|recipients) (sent |received )?(per|this) (second|minute|hour|day)\b"),
    _rule(
        Cause.LIMIT, rf"{_NO_SIZE}\b(limits?|quotas?)\b.{{0,30}}\b(reached|exceeded|hit|used up)", OURS, codes=_NO_552
    ),
    _rule(Cause.LIMIT, rf"{_NO_SIZE}\b(reached|exceeded|over)\b.{{0,60}}\b(limits?|quotas?)\b", OURS, codes=_NO_552),
    _rule(Cause.LIMIT, r"\bquotas?\b.{0,30}\bexceeded", OURS, codes="552"),
    _rule(Cause.LIMIT, r"too (many|much|fast|quickly|frequent)|\brate\b.{0,20}\blimit", OURS, codes=_NO_DIALOGUE),
    _rule(
        Cause.LIMIT,
        rf"{_NO_SIZE}(\brate\b|\blimit|over ?limit|\bquota\b|frequen|exce(ed|ssive)|allowance|flood)",
        MAIL,
        codes="4",
    ),
    _rule(Cause.LIMIT, r"\bmax\w*\b.{0,30}\b(messages|e?-?mails)\b|\b(messages|e?-?mails) ?/", MAIL, codes="4"),
    _rule(Cause.LIMIT, rf"{_NO_MAILBOX}too many (e?-?mails|messages)\b", SENDING, codes=_NO_552),
    _rule(
        Cause.LIMIT,
        rf"{_NO_MAILBOX}\b(e?-?mails?|messages?) (rate )?limits?\b.{{0,20}}\b(reached|exceeded)",
        SENDING,
        codes=_NO_552,
    ),
    _rule(
        Cause.LIMIT,
        rf"{_NO_MAILBOX}\brate\b.{{0,20}}\b(limit|exceed)",
        SENDING,
        codes=_NO_552,
        enhanced=_NOT_OF_A_MAILBOX,
    ),
    # About a mailbox it would be X.2.2.
    _rule(Cause.LIMIT, rf"{_NO_MAILBOX}\bquota (is |was )?exceeded", SENDING, codes=_NO_552, enhanced=r"\d\.7\."),
    _rule(Cause.TOO_MANY_RECIPIENTS, r"too many (rcpts?|recipients)", ABOUT_RECIPIENT),
    _rule(Cause.TOO_MANY_RECIPIENTS, r"recipients?\b.{0,20}\b(limit|maximum)", ABOUT_RECIPIENT),
    _rule(Cause.LIMIT, r"throttl"),
    _rule(Cause.LIMIT, r"un(expected|usual) (volume|rate)", codes="4"),
    _rule(
        Cause.LIMIT,
        r"rate.?limit|\brate\b.{0,30}\b(exceed|over ?limit)|concurrent (connections|sending)|thread limit"
        r"|too (many|fast|quickly)\b|slow down",
        codes="4",
        enhanced=_NOT_OF_A_MAILBOX,
    ),
    # -- access --
    _rule(Cause.SENDER_NOT_ALLOWED, r"relaying disallowed as|sender is not allowed to relay", SENDING),
    _rule(
        Cause.RELAYING,
        r"relay(ing)?\b.*\b(denied|disallowed|prohibited|forbidden|not permitted|not allowed)|unable to relay",
    ),
    _rule(Cause.RELAYING, r"not (permitted|allowed) to relay|(do|does|will) not relay|rcpthosts"),
    # At DATA too: no more is known about the mail then.
    _rule(Cause.RELAYING, _LOGIN_FIRST, RCPT | {Phase.DATA}, codes="5"),
    _rule(Cause.LOGIN_LATER, r"auth|log ?in|credential|tls|encrypt", codes="454", enhanced=r"$|4\.7\."),
    _rule(Cause.LOGIN_LATER, r"", codes="454", enhanced=r"4\.7\.0$"),
    _rule(Cause.CLIENT, r"\bip\b.{0,60}(block|banned|denied|not (allowed|authori[sz]ed|permitted|match|registered))"),
    # -- the sender --
    _rule(Cause.UNPROVEN, r"\b(SPF|DKIM|DMARC)\b", SENDING),
    _rule(Cause.SENDER_NOT_ALLOWED, r"send as\b|SendAsDenied|not verified|verified sender|sender signature", SENDING),
    _rule(Cause.SENDER_NOT_ALLOWED, r"not (authori[sz]ed|allowed|permitted) to (send|use)\b", SENDING),
    _rule(Cause.SENDER_NOT_ALLOWED, r"not (your|owned by)\b|unauthori[sz]ed sender|do(es)? not own", SENDING),
    _rule(Cause.SENDER_NOT_ALLOWED, r"not an? (allowed|authori[sz]ed|permitted|local) sender", SENDING),
    _rule(Cause.SENDER_NOT_ALLOWED, r"mail from\b.{0,40}\bnot (allowed|permitted|authori[sz]ed)", MAIL),
    _rule(
        Cause.SENDER_NOT_ALLOWED,
        r"\b(sender|from address)\b.{0,80}(not (allowed|owned|permitted|authori[sz]ed|your|logged in)\b|access denied"
        r"|(does not|doesn't) (belong|match))",
        SENDING,
    ),
    _rule(Cause.SENDER, r"from address|sender verify|invalid sender", SENDING),
    _rule(Cause.SENDER, r"sender\b.{0,80}(reject|refus|denied|unknown)", SENDING),
    # -- the mailbox, the mail, the server --
    _rule(Cause.NO_MAIL_DOMAIN, r"null ?mx", ABOUT_RECIPIENT),
    _rule(
        Cause.FULL,
        r"over ?quota|quota (is )?(exceeded|full)|(mailbox|mail ?folder|inbox).{0,20}\bfull",
        ABOUT_RECIPIENT,
    ),
    _rule(Cause.FULL, r"mailbox\b.{0,20}\bexceed|exceed\w* (its |the )?(mailbox|quota)", ABOUT_RECIPIENT),
    _rule(Cause.TOO_BIG, r"size\b.{0,30}\b(exceed|limit)|exceed\w*\b.{0,40}\bsize|maximum (message )?size", SENDING),
    _rule(Cause.TOO_BIG, r"(message|mail|attachment|content|size)\b.{0,40}\btoo (big|large|long)", SENDING),
    _rule(Cause.NO_SPACE, r"insufficient (system )?(storage|resources|disk)|(disk|no|out of) (disk )?space", SENDING),
    _rule(Cause.LOOP, r"too many hops|hop count|\bmail loop|looping", SENDING),
    _rule(Cause.UNWANTED, r"recipient\b.{0,40}\breject\w*:? access denied", ABOUT_RECIPIENT),
    _rule(Cause.UNWANTED, r"mailbox unavailable", ABOUT_RECIPIENT, codes="5"),
    _rule(Cause.CLIENT, r"client host.{0,80}(reject|block|denied)|reverse (dns|hostname)"),
    _rule(
        Cause.CLIENT,
        r"\b(invalid|bad|bogus|forged)\b.{0,10}\b(helo|ehlo)\b|helo\b.{0,40}(reject|refus|denied|not allowed)",
    ),
    _rule(Cause.CLIENT, r"blocked using|spamhaus|bl(ack|ock) ?list", _BEFORE_CONTENT),
    _rule(Cause.DENIED, r"access denied"),
    _rule(Cause.NO_MAIL_DOMAIN, r"domain\b.{0,40}\b(not accept|no mail)", RCPT),
    _rule(Cause.NO_DOMAIN, r"(domain|host)\b.{0,40}\b(not found|(does not|doesn't) exist|unknown|no mx)", RCPT),
    _rule(Cause.NO_DOMAIN, r"no such domain|unknown domain", RCPT),
    _rule(
        Cause.DISABLED,
        r"\b(account|user|mailbox|address|recipient)\b.{0,40}\b(disabled|suspended|inactive|deactivated|discontinued"
        r"|locked|blocked|closed)|inactive (user|account|mailbox)",
        ABOUT_RECIPIENT,
    ),
    _rule(
        Cause.NO_MAILBOX,
        r"\b(user|recipient|mailbox|account|address)\b.{0,40}\b(unknown|not found|(does not|doesn't|not) exist)"
        r"|unknown (user|recipient|mailbox|address|local)|no such (user|recipient|mailbox|person|address|account)"
        r"|(doesn't|does not) have an? .{0,40}account|no mailbox here|invalid (recipient|mailbox|user)|unrouteable"
        r"|not a valid (recipient|mailbox|user)",
        ABOUT_RECIPIENT,
    ),
    _rule(
        Cause.BAD_ADDRESS,
        r"mailbox name|address (mailbox )?syntax|(bad|invalid) address|fully-qualified address",
        RCPT,
        codes="5",
        enhanced=r"$|5\.[15]\.",
    ),
    _rule(Cause.VIRUS, r"\bvirus|malware|malicious|potential security|infected", SENDING),
    _rule(Cause.VIRUS, r"(banned|illegal|blocked|prohibited) (attachment|file)", SENDING),
    _rule(Cause.SPAM, r"\bspam\b|spamhaus|unsolicited|\bjunk\b|\bbulk\b|bl(ack|ock) ?list|reputation", SENDING),
    _rule(Cause.SPAM, r"content\b.{0,20}\b(reject|refus|denied|block)", SENDING),
    # -- later. About one mail; a server that lacks a resource sends X.3.Z. --
    _rule(
        Cause.GREYLISTED,
        r"^(?!.*service).*(delay|\btry|come back|retry|\blater|temporarily (rejected|deferred))",
        SENDING,
        codes="45[01]",
        enhanced=r"4\.7\.1$",
    ),
    _rule(
        Cause.BUSY,
        r"\bbusy|overload|try again|\blater\b|come back|unavailable|congest|temporarily",
        codes="4(?!21|54)",
    ),
    _rule(Cause.BUSY, r"", codes="4(?!21|54)", enhanced=r"4\.3\.2$"),
    _rule(Cause.POLICY, r"\bpolicy\b", SENDING, codes="4(?!21|54)|5(?!0[0-4])"),
)
