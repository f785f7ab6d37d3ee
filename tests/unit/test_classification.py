"""The outcome of each failure."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from email_integration.outcomes.causes import ABOUT_US, ACCOUNT_WIDE, ADMIN_FIXABLE, Cause
from email_integration.outcomes.classification import (
    GREYLISTED_FOR,
    Accepted,
    Deferred,
    Failed,
    InDoubt,
    Outcome,
    accepted,
    classify,
    classify_recipients,
    is_permanent,
)
from email_integration.outcomes.recognition import recognise
from email_integration.smtp import (
    CannotConnect,
    ConnectionLost,
    NotOffered,
    NoToken,
    Phase,
    PoolBusy,
    Refused,
    Reply,
    SMTPFailure,
    TLSFailed,
)
from email_integration.smtp.dialogue import Malformed

ADDRESS = "kim@example.com"

BEFORE_MAIL = [phase for phase in Phase if phase.before_mail]
FROM_MAIL_ON = [phase for phase in Phase if not phase.before_mail]


def reply(said: str) -> Reply:
    return Reply.parse(int(said[:3]), said[4:])


def refused(phase: Phase, said: str, **how: bool) -> Outcome:
    return classify(Refused(phase, "", reply(said)), **how)


def replies(*said: str) -> dict[str, Reply]:
    return {f"{number}@example.com": reply(one) for number, one in enumerate(said)}


#: The result of a refusal: this mail fails, this mail waits, or all mail waits because the refusal concerns us.
NEVER, WAITS, ALL_WAIT = "never", "waits", "all wait"


def verdict(outcome: Outcome) -> str:
    if isinstance(outcome, Failed):
        return NEVER
    assert isinstance(outcome, Deferred)
    return ALL_WAIT if outcome.relay_at_fault else WAITS


#: By phase: the server's reply, its cause, its result.
WORDINGS: dict[Phase, list[tuple[str, Cause, str]]] = {
    Phase.GREETING: [
        ("554 5.7.1 You are not allowed to connect", Cause.CLIENT, ALL_WAIT),
        ("421 4.7.0 Too many connections from your address", Cause.LIMIT, ALL_WAIT),
        ("554 No SMTP service here", Cause.CLIENT, ALL_WAIT),
        ("450 4.3.2 Service currently unavailable", Cause.BUSY, ALL_WAIT),
    ],
    Phase.STARTTLS: [
        ("454 4.7.0 TLS not available due to local problem", Cause.LOGIN_LATER, ALL_WAIT),
        ("502 5.5.1 Not implemented", Cause.PROTOCOL, ALL_WAIT),
    ],
    Phase.AUTH: [
        ("535 5.7.8 Error: authentication failed: UGFzc3dvcmQ6", Cause.LOGIN, ALL_WAIT),
        ("535 5.7.0 The email limit is reached", Cause.ACCOUNT_QUOTA, ALL_WAIT),
        ("535 5.7.1 The daily limit of your account has been reached", Cause.LIMIT, ALL_WAIT),
        ("535 5.7.8 Access denied", Cause.LOGIN, ALL_WAIT),
        ("535-5.7.8 Username and Password not accepted", Cause.APP_PASSWORD, ALL_WAIT),
        ("535 5.7.139 Authentication unsuccessful, basic authentication is disabled.", Cause.PASSWORDS_OFF, ALL_WAIT),
        ("535 Incorrect authentication data", Cause.LOGIN, ALL_WAIT),
        ("534 5.7.14 Please log in via your web browser and then try again.", Cause.LOCKED, ALL_WAIT),
        ("550 5.7.13 User account disabled", Cause.LOCKED, ALL_WAIT),
        ("525 5.7.13 Unauthorized IP address", Cause.CLIENT, ALL_WAIT),
        ("504 5.5.4 Unrecognized authentication type", Cause.LOGIN, ALL_WAIT),
        ("538 5.7.11 Encryption required for requested authentication mechanism", Cause.STARTTLS_FIRST, ALL_WAIT),
        ("432 4.7.12 A password transition is needed", Cause.LOGIN, ALL_WAIT),
        ("454 4.7.0 Temporary authentication failure", Cause.LOGIN_LATER, ALL_WAIT),
        ("454 4.7.0 Too many login attempts, please try again later.", Cause.TOO_MANY_LOGINS, ALL_WAIT),
    ],
    Phase.MAIL: [
        ("530 5.7.0 Must issue a STARTTLS command first", Cause.STARTTLS_FIRST, ALL_WAIT),
        ("530 5.7.57 Client not authenticated to send mail.", Cause.LOGIN_NEEDED, ALL_WAIT),
        ("530-5.5.1 Authentication Required. Learn more", Cause.LOGIN_NEEDED, ALL_WAIT),
        ("550 5.7.30 Basic authentication is not supported for Client Submission.", Cause.PASSWORDS_OFF, ALL_WAIT),
        ("432 4.3.2 Concurrent connections limit exceeded. Visit https://aka.ms/x", Cause.LIMIT, ALL_WAIT),
        ("451 4.7.500 Server busy. Please try again later from [192.0.2.1]. (AS77712)", Cause.LIMIT, ALL_WAIT),
        ("451 4.7.650 The mail server [192.0.2.1] has been temporarily rate limited", Cause.LIMIT, ALL_WAIT),
        ("421 4.7.0 [TSS04] Messages temporarily deferred due to unexpected volume", Cause.LIMIT, ALL_WAIT),
        ("450 4.7.1 Error: too much mail from 192.0.2.1", Cause.LIMIT, ALL_WAIT),
        ("421-4.7.28 Gmail has detected an unusual rate of email", Cause.LIMIT, ALL_WAIT),
        ("550 5.4.5 Daily user sending limit exceeded. For more information", Cause.ACCOUNT_QUOTA, ALL_WAIT),
        ("421 4.3.2 Service not available, closing transmission channel", Cause.UNAVAILABLE, ALL_WAIT),
        ("550 Sender address rejected: not allowed", Cause.SENDER_NOT_ALLOWED, WAITS),
        ("550 Sender address rejected", Cause.SENDER, NEVER),
        ("550 No", Cause.SENDER, NEVER),
        ("501 5.1.7 Bad sender address syntax", Cause.SENDER, NEVER),
        ("553 5.1.8 <kim@example.com>... Domain of sender address does not exist", Cause.SENDER, NEVER),
        ("450 4.1.8 <kim@example.com>: Sender address rejected: Domain not found", Cause.SENDER, WAITS),
        ("552 5.3.4 Message size exceeds fixed limit", Cause.TOO_BIG, NEVER),
        ("552 Message size exceeds maximum permitted", Cause.TOO_BIG, NEVER),
        ("452 4.3.1 Insufficient system storage", Cause.NO_SPACE, WAITS),
        ("452 4.3.1 Insufficient system resources (UsedVersionBuckets)", Cause.NO_SPACE, WAITS),
        ("503 5.5.1 Bad sequence of commands", Cause.PROTOCOL, ALL_WAIT),
        ("503 Bad sequence of commands - pipelined after end of DATA", Cause.PROTOCOL, ALL_WAIT),
        ("503 5.1.8 Sender address rejected", Cause.PROTOCOL, ALL_WAIT),
        ("500 Command unrecognized", Cause.PROTOCOL, ALL_WAIT),
        ("501 Syntax: MAIL FROM:<address>", Cause.PROTOCOL, ALL_WAIT),
        ("501 Sender address rejected", Cause.PROTOCOL, ALL_WAIT),
        ("502 5.7.0 Please authenticate first", Cause.LOGIN_NEEDED, ALL_WAIT),
        ("503 AUTH command first", Cause.LOGIN_NEEDED, ALL_WAIT),
        ("504 5.5.2 <kim>: Sender address rejected: need fully-qualified address", Cause.PROTOCOL, ALL_WAIT),
        ("555 5.5.4 Unsupported option: BODY=8BITMIME", Cause.PROTOCOL, ALL_WAIT),
        ("452 4.5.3 Too many recipients: Too many messages sent", Cause.LIMIT, ALL_WAIT),
        ("452 4.5.3 Too many messages", Cause.LIMIT, ALL_WAIT),
        ("450 4.7.1 Too many messages, try again later", Cause.LIMIT, ALL_WAIT),
        ("451 Sender rate 20.3 / 1m", Cause.LIMIT, ALL_WAIT),
        ("452 4.4.5 Messages per second limit exceeded", Cause.LIMIT, ALL_WAIT),
        ("451 4.7.0 Temporary server error. Please try again later", Cause.BUSY, WAITS),
        ("553 Relaying disallowed as noreply@example.com", Cause.SENDER_NOT_ALLOWED, WAITS),
        ("550 Your trial plan has expired", Cause.ACCOUNT_CREDIT, ALL_WAIT),
        ("550 Access denied - Invalid HELO name (See RFC2821 4.1.1.1)", Cause.CLIENT, WAITS),
        ("550 SMTP access disabled for this account", Cause.LOCKED, ALL_WAIT),
        ("552 Exceeds what we take", Cause.TOO_BIG, NEVER),
        ("552 5.2.2 Quota exceeded", Cause.LIMIT, ALL_WAIT),
        ("450 4.7.1 Exceeded allowed number of messages", Cause.LIMIT, ALL_WAIT),
        ("450 Maximum number of messages exceeded", Cause.LIMIT, ALL_WAIT),
        ("450 4.7.1 Max 20 messages/minute", Cause.LIMIT, ALL_WAIT),
        ("451 4.7.1 Your account is temporarily over its hourly allowance", Cause.LIMIT, ALL_WAIT),
        ("451 4.7.0 Temporarily blocked due to excessive sending", Cause.LIMIT, ALL_WAIT),
        ("450 4.7.1 Policy: message flood detected", Cause.LIMIT, ALL_WAIT),
        ("452 Message exceeds the maximum size", Cause.TOO_BIG, WAITS),
        ("552 Message exceeded the limit of 10 MB", Cause.TOO_BIG, NEVER),
        ("552 Sending quota exceeded", Cause.LIMIT, ALL_WAIT),
        ("553 5.7.1 <kim@example.com>: Sender address rejected: not logged in", Cause.SENDER_NOT_ALLOWED, WAITS),
        ("550 Sender mailbox is disabled", Cause.SENDER_NOT_ALLOWED, WAITS),
        ("550 Your user account is disabled", Cause.LOCKED, ALL_WAIT),
        ("502 5.7.0 Your SMTP account is not yet activated", Cause.LOCKED, ALL_WAIT),
        ("550 5.7.1 Relaying disallowed", Cause.RELAYING, WAITS),
        ("550 Access denied, traffic not accepted from this IP", Cause.ACCOUNT_IP, ALL_WAIT),
        ("450 Peak SMTP relay limit exceeded for customer", Cause.ACCOUNT_RATE, ALL_WAIT),
    ],
    Phase.RCPT: [
        # About the mailbox.
        ("550 5.1.1 <kim@example.com>: Recipient address rejected: User unknown", Cause.NO_MAILBOX, NEVER),
        ("550-5.1.1 The email account that you tried to reach does not exist. gsmtp", Cause.NO_MAILBOX, NEVER),
        ("550 5.5.0 Requested action not taken: mailbox unavailable", Cause.UNWANTED, NEVER),
        ("550 No such user here", Cause.NO_MAILBOX, NEVER),
        ("550 Unrouteable address", Cause.NO_MAILBOX, NEVER),
        ("550 sorry, no mailbox here by that name. (#5.1.1)", Cause.NO_MAILBOX, NEVER),
        ("554 delivery error: dd This user doesn't have a yahoo.com account", Cause.NO_MAILBOX, NEVER),
        ("550 5.4.1 Recipient address rejected: Access denied. AS(201806281)", Cause.NO_MAILBOX, NEVER),
        ("450 4.1.1 <kim@example.com>: unverified address: Address verification in progress", Cause.NO_MAILBOX, WAITS),
        ("550 5.1.6 Moved", Cause.MOVED, NEVER),
        ("551 User not local; please try <lee@example.com>", Cause.MOVED, NEVER),
        ("550 5.2.1 The email account that you tried to reach is disabled.", Cause.DISABLED, NEVER),
        ("550 5.7.13 User disabled", Cause.DISABLED, NEVER),
        ("554 This account has been disabled or discontinued [#102]", Cause.DISABLED, NEVER),
        ("535 5.2.1 Mailbox disabled", Cause.DISABLED, NEVER),
        ("530 5.1.1 No such mailbox", Cause.NO_MAILBOX, NEVER),
        ("550 5.7.8 No", Cause.POLICY, NEVER),
        ("552 5.2.2 Mailbox full", Cause.FULL, NEVER),
        ("552-5.2.2 The email account that you tried to reach is over quota.", Cause.FULL, NEVER),
        ("452 4.2.2 Over quota", Cause.FULL, WAITS),
        ("452 4.2.2 Mailbox daily quota is used up", Cause.FULL, WAITS),
        ("552 Requested mail action aborted: exceeded storage allocation", Cause.FULL, NEVER),
        ("422 Mailbox size limit exceeded", Cause.FULL, WAITS),
        ("450-4.2.1 The user you are trying to contact is receiving mail too quickly.", Cause.MAILBOX_BUSY, WAITS),
        ("432 4.3.2 STOREDRV; recipient thread limit exceeded", Cause.MAILBOX_BUSY, WAITS),
        ("553 Requested action not taken: mailbox name not allowed", Cause.BAD_ADDRESS, NEVER),
        ("501 5.1.3 Bad recipient address syntax", Cause.BAD_ADDRESS, NEVER),
        ("550 5.7.2 You may not post to this list", Cause.LIST, NEVER),
        ("554 5.7.1 <kim@example.com>: Recipient address rejected: Access denied", Cause.UNWANTED, NEVER),
        # About the mailbox's domain.
        ("550 5.1.2 Bad destination system", Cause.NO_DOMAIN, NEVER),
        ("550 5.4.310 DNS domain example.org does not exist", Cause.NO_DOMAIN, NEVER),
        ("450 4.0.0 Recipient address rejected: Domain not found", Cause.NO_DOMAIN, WAITS),
        ("556 5.1.10 Recipient address has null MX", Cause.NO_MAIL_DOMAIN, NEVER),
        ("521 example.org does not accept mail", Cause.NO_MAIL_DOMAIN, NEVER),
        # Too many at a time.
        ("452 4.5.3 Error: too many recipients", Cause.TOO_MANY_RECIPIENTS, WAITS),
        ("452-4.5.3 Too many recipients. More on sending limits at x", Cause.TOO_MANY_RECIPIENTS, WAITS),
        ("552 Too many recipients", Cause.TOO_MANY_RECIPIENTS, WAITS),
        ("452 Too many recipients: Too many messages sent", Cause.TOO_MANY_RECIPIENTS, WAITS),
        ("550 5.5.3 Recipient limit reached", Cause.TOO_MANY_RECIPIENTS, WAITS),
        ("450 4.7.1 Error: too many recipients from 192.0.2.1", Cause.LIMIT, ALL_WAIT),
        ("550 Domain example.com has exceeded the max emails per hour (100/100) allowed", Cause.LIMIT, ALL_WAIT),
        # About the permission to send to it.
        ("554 5.7.1 <kim@example.com>: Relay access denied", Cause.RELAYING, WAITS),
        ("454 4.7.1 <kim@example.com>: Relay access denied", Cause.RELAYING, WAITS),
        ("550 5.7.54 SMTP; Unable to relay recipient in non-accepted domain", Cause.RELAYING, WAITS),
        ("553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)", Cause.RELAYING, WAITS),
        ("550 5.1.0 Authentication required", Cause.RELAYING, WAITS),
        ("530 5.7.0 Authentication required", Cause.LOGIN_NEEDED, ALL_WAIT),
        ("554 5.7.1 Client host [192.0.2.1] blocked using zen.spamhaus.org", Cause.CLIENT, WAITS),
        ("550 5.7.606 Access denied, banned sending IP [192.0.2.1]", Cause.CLIENT, WAITS),
        ("550 5.7.25 The IP address sending this message has no PTR record", Cause.CLIENT, WAITS),
        ("450 4.7.1 Client host rejected: cannot find your hostname", Cause.CLIENT, WAITS),
        (
            "553 5.7.1 <kim@example.com>: Sender address rejected: not owned by user lee",
            Cause.SENDER_NOT_ALLOWED,
            WAITS,
        ),
        ("503 5.5.1 Need MAIL first", Cause.PROTOCOL, WAITS),
        ("500 What?", Cause.PROTOCOL, WAITS),
        ("502 5.5.1 Not implemented", Cause.PROTOCOL, WAITS),
        ("504 5.5.2 <kim>: Recipient address rejected: need fully-qualified address", Cause.BAD_ADDRESS, WAITS),
        ("504 5.5.2 <web_1>: Helo command rejected: need fully-qualified hostname", Cause.CLIENT, WAITS),
        ("501 Syntax error", Cause.PROTOCOL, NEVER),
        ("553 Relaying disallowed", Cause.RELAYING, WAITS),
        ("554 5.7.1 Relaying disallowed. Invalid Domain - example.com", Cause.RELAYING, WAITS),
        ("553 5.7.1 <kim@example.com>: Sender address rejected: not logged in", Cause.SENDER_NOT_ALLOWED, WAITS),
        # About the account, without the enhanced code for it.
        (
            "550 5.7.1 Service unavailable. Access denied, tenant has exceeded threshold",
            Cause.ACCOUNT_BLOCKED,
            ALL_WAIT,
        ),
        ("550 Access denied, traffic not accepted from this IP", Cause.ACCOUNT_IP, ALL_WAIT),
        ("450 Peak SMTP relay limit exceeded for customer", Cause.ACCOUNT_RATE, ALL_WAIT),
        ("421 4.2.1 Peak SMTP relay limit exceeded for customer", Cause.ACCOUNT_RATE, ALL_WAIT),
        ("550 The email limit is reached", Cause.LIMIT, ALL_WAIT),
        ("550 You have exceeded your messaging limits", Cause.LIMIT, ALL_WAIT),
        ("550 Too many messages. Try again in 92 seconds.", Cause.LIMIT, ALL_WAIT),
        ("554 5.7.0 Too many mails", Cause.LIMIT, ALL_WAIT),
        ("451 Sender rate overlimit - 25.3 / 1h", Cause.LIMIT, ALL_WAIT),
        ("554 5.7.1 rate limit exceeded", Cause.LIMIT, ALL_WAIT),
        ("550 5.7.1 Sender rate limited", Cause.LIMIT, ALL_WAIT),
        ("550 5.7.1 Quota exceeded", Cause.LIMIT, ALL_WAIT),
        ("550 5.7.1 Mailbox quota exceeded", Cause.FULL, NEVER),
        ("550 Quota exceeded", Cause.FULL, NEVER),
        ("550 Your plan has expired", Cause.ACCOUNT_CREDIT, ALL_WAIT),
        ("550 5.7.1 Your credits are exhausted", Cause.ACCOUNT_CREDIT, ALL_WAIT),
        ("550 Outgoing mail from this account is suspended", Cause.LOCKED, ALL_WAIT),
        ("554 SMTP relay disabled for your domain", Cause.LOCKED, ALL_WAIT),
        ("550 Access denied - Invalid HELO name (See RFC2821 4.1.1.1)", Cause.CLIENT, WAITS),
        ("550 Too many messages in the mailbox of the recipient", Cause.REFUSED, NEVER),
        ("552 Mailbox message limit exceeded", Cause.FULL, NEVER),
        # The enhanced code decides, whatever the text.
        ("550 5.1.1 Traffic not accepted from this IP", Cause.NO_MAILBOX, NEVER),
        ("550 5.1.1 Relaying denied: too many messages, spam", Cause.NO_MAILBOX, NEVER),
        ("552 5.2.2 Sending limit exceeded", Cause.FULL, NEVER),
        ("452 4.2.2 Sending limit exceeded", Cause.FULL, WAITS),
        ("450 4.2.1 Peak SMTP relay limit exceeded for customer", Cause.ACCOUNT_RATE, ALL_WAIT),
        ("550 Sender verify failed", Cause.SENDER, NEVER),
        # Temporary refusals.
        ("450 4.2.0 <kim@example.com>: Recipient address rejected: Greylisted", Cause.GREYLISTED, WAITS),
        ("451 4.7.1 Greylisting in action, please come back in 00:05:00", Cause.GREYLISTED, WAITS),
        ("451 4.7.1 Please try again later", Cause.GREYLISTED, WAITS),
        ("421 4.7.1 Grey-listed, try later", Cause.GREYLISTED, WAITS),
        ("451 4.7.1 Service unavailable - try again later", Cause.BUSY, WAITS),
        ("450 Requested action not taken: mailbox unavailable", Cause.BUSY, WAITS),
        ("451 4.3.0 <kim@example.com>: Temporary lookup failure", Cause.TROUBLE, WAITS),
        ("451 Requested action aborted: local error in processing", Cause.TROUBLE, WAITS),
        ("452 Requested action not taken: insufficient system storage", Cause.NO_SPACE, WAITS),
        ("451 4.4.3 Directory server failure", Cause.NETWORK, WAITS),
        ("421 4.4.2 Timeout exceeded", Cause.UNAVAILABLE, ALL_WAIT),
        ("450 4.2.0 Not now", Cause.PUT_OFF, WAITS),
        ("550 5.2.0 No", Cause.REFUSED, NEVER),
        ("555 RCPT TO parameters not recognized", Cause.PROTOCOL, NEVER),
        ("550 5.6.7 Address is beyond ASCII", Cause.NO_SMTPUTF8, NEVER),
    ],
    Phase.DATA: [
        ("554 No", Cause.REFUSED, NEVER),
        ("503 5.5.1 Bad sequence of commands", Cause.PROTOCOL, WAITS),
        ("500 What?", Cause.PROTOCOL, WAITS),
        ("502 5.5.1 Not implemented", Cause.PROTOCOL, WAITS),
        ("504 5.5.4 No", Cause.PROTOCOL, WAITS),
        ("550 5.7.1 Please authenticate first", Cause.RELAYING, WAITS),
        ("502 Please authenticate first", Cause.RELAYING, WAITS),
        ("554 Too many recipients", Cause.TOO_MANY_RECIPIENTS, WAITS),
        ("451 4.3.0 Queue file write error", Cause.TROUBLE, WAITS),
    ],
    Phase.FINAL_DOT: [
        ("454 Throttling failure: Maximum sending rate exceeded.", Cause.ACCOUNT_RATE, ALL_WAIT),
        ("454 Throttling failure: Daily message quota exceeded.", Cause.ACCOUNT_QUOTA, ALL_WAIT),
        ("454 Temporary service failure", Cause.UNAVAILABLE, ALL_WAIT),
        ("554 Message rejected: Email address is not verified.", Cause.SENDER_NOT_ALLOWED, WAITS),
        ("554 Message rejected: Sending suspended for this account.", Cause.ACCOUNT_BLOCKED, ALL_WAIT),
        ("554 5.2.252 SendAsDenied; lee@example.com not allowed to send as x", Cause.SENDER_NOT_ALLOWED, WAITS),
        ("550 5.1.8 Access denied, bad outbound sender", Cause.ACCOUNT_BLOCKED, ALL_WAIT),
        (
            "550 5.7.708 Service unavailable. Access denied, traffic not accepted from this IP",
            Cause.ACCOUNT_IP,
            ALL_WAIT,
        ),
        ("554 5.2.2 mailbox full; STOREDRV.Submission.Exception:QuotaExceeded", Cause.ACCOUNT_FULL, ALL_WAIT),
        ("554 5.2.2 mailbox full; STOREDRV.Deliver.Exception:QuotaExceeded", Cause.FULL, NEVER),
        ("554 mailbox full; STOREDRV.Submission.Exception:QuotaExceededException", Cause.ACCOUNT_FULL, ALL_WAIT),
        ("554 5.7.1 Message rejected: Sending suspended for this account.", Cause.ACCOUNT_BLOCKED, ALL_WAIT),
        ("454 4.7.0 Throttling failure: Daily message quota exceeded.", Cause.ACCOUNT_QUOTA, ALL_WAIT),
        ("550 Unusual sending activity detected.", Cause.ACCOUNT_BLOCKED, ALL_WAIT),
        ("554 Email Outgoing Blocked", Cause.ACCOUNT_BLOCKED, ALL_WAIT),
        ("554 Sender Address Blocked", Cause.SENDER_NOT_ALLOWED, WAITS),
        ("554 5.7.1 The mail of this sender was blocked: it looks like spam", Cause.SPAM, NEVER),
        ("502 5.7.0 Your SMTP account is not yet activated", Cause.LOCKED, ALL_WAIT),
        ("554 Transaction failed: this host sends too many messages", Cause.LIMIT, ALL_WAIT),
        ("554 5.7.1 Message sending rate exceeded", Cause.LIMIT, ALL_WAIT),
        ("552 Message exceeded the limit", Cause.TOO_BIG, NEVER),
        ("554 Too many attachments, limit exceeded", Cause.REFUSED, NEVER),
        ("503 5.5.1 Bad sequence of commands", Cause.PROTOCOL, WAITS),
        ("504 5.5.4 No", Cause.PROTOCOL, NEVER),
        ("554 5.7.1 Spam message rejected", Cause.SPAM, NEVER),
        ("550-5.7.1 Our system has detected that this message is likely unsolicited mail", Cause.SPAM, NEVER),
        ("554 5.7.1 URL in spamhaus", Cause.SPAM, NEVER),
        ("451 4.7.1 Looks like spam", Cause.SPAM, WAITS),
        ("552-5.7.0 This message presents a potential security issue", Cause.VIRUS, NEVER),
        ("550 5.7.1 Virus found", Cause.VIRUS, NEVER),
        ("554 5.7.1 Access denied", Cause.DENIED, NEVER),
        ("554 5.7.1 Message refused", Cause.POLICY, NEVER),
        ("550-5.7.26 This mail is unauthenticated, which poses a security risk", Cause.UNPROVEN, NEVER),
        ("550 DMARC policy of the domain", Cause.UNPROVEN, NEVER),
        ("554 5.6.0 Bad MIME", Cause.CONTENT, NEVER),
        ("554 5.4.6 Too many hops", Cause.LOOP, NEVER),
        ("552 5.3.4 Message too big", Cause.TOO_BIG, NEVER),
        ("554 5.5.3 Too many recipients", Cause.TOO_MANY_RECIPIENTS, WAITS),
        ("554 Too many recipients", Cause.TOO_MANY_RECIPIENTS, WAITS),
        ("421 4.3.0 Try again", Cause.UNAVAILABLE, ALL_WAIT),
        ("452 4.3.1 Out of space", Cause.NO_SPACE, WAITS),
    ],
}
ROWS = [(phase, *row) for phase, rows in WORDINGS.items() for row in rows]

#: Causes that no reply can have, except a nonsensical one.
WITHOUT_REPLY = {
    Cause.NOT_CONNECTED,
    Cause.TLS_FAILED,
    Cause.NOT_OFFERED,
    Cause.CONNECTION_LOST,
    Cause.SILENT,
    Cause.MALFORMED,
    Cause.IN_DOUBT,
    Cause.NO_TOKEN,
    Cause.POOL_BUSY,
    Cause.SESSION_ENDED,
    Cause.TOO_SLOW,
    Cause.PAUSED,
    Cause.NO_RELAY,
    Cause.UNUSABLE,
    Cause.SETTINGS,
    Cause.WITHHELD,
    Cause.CONTENT_UNAVAILABLE,
    Cause.DAMAGED,
    Cause.WORKER_LOST,
    Cause.INTERNAL_ERROR,
    Cause.EXPIRED,
    Cause.CANCELLED,
    Cause.DISCARDED,
    Cause.NO_RECIPIENTS,
    Cause.ERASED,
    Cause.CONFIG_SENDER,  # depends on the mail's sender, not only on the reply
}


@pytest.mark.parametrize("said", ["535 5.7.3 Authentication unsuccessful", "535 5.7.8 no", "535 no", "550 no"])
def test_a_token_that_is_refused_is_known_by_having_been_one(said: str) -> None:
    answer = dataclasses.replace(reply(said), to_token=True)
    assert recognise(Phase.AUTH, answer) is Cause.TOKEN
    assert verdict(classify(Refused(Phase.AUTH, "", answer))) == ALL_WAIT
    assert recognise(Phase.AUTH, reply(said)) is not Cause.TOKEN


@pytest.mark.parametrize(("phase", "said", "cause", "ends"), ROWS, ids=[f"{row[0]}-{row[1]}" for row in ROWS])
def test_what_servers_say_is_understood(phase: Phase, said: str, cause: Cause, ends: str) -> None:
    assert recognise(phase, reply(said)) is cause
    outcome = refused(phase, said)
    assert outcome.cause == cause
    assert verdict(outcome) == ends
    assert outcome.reason.endswith(f" ({reply(said).short})")
    assert outcome.reply
    if phase is Phase.RCPT:
        assert is_permanent(reply(said)) == (ends == NEVER)


def test_every_cause_but_nonsense_is_among_them() -> None:
    assert {row[2] for row in ROWS} == set(Cause) - {Cause.OUT_OF_TURN, Cause.TOKEN} - WITHOUT_REPLY


def at_fault(outcome: Outcome) -> bool:
    return isinstance(outcome, Deferred) and outcome.relay_at_fault


@pytest.mark.parametrize(
    "failure",
    [
        CannotConnect(Phase.CONNECT, "Connection refused"),
        TLSFailed(Phase.STARTTLS, "not trusted"),
        NotOffered(Phase.STARTTLS, "no STARTTLS"),
        NotOffered(Phase.AUTH, "no AUTH"),
        *(ConnectionLost(phase, "lost") for phase in BEFORE_MAIL),
    ],
    ids=str,
)
def test_what_stops_a_session_from_being_opened_is_the_relays_fault(failure: SMTPFailure) -> None:
    outcome = classify(failure)
    assert at_fault(outcome)
    assert (outcome.code, outcome.phase) == (None, failure.phase)


@pytest.mark.parametrize("phase", BEFORE_MAIL)
@pytest.mark.parametrize("said", ["421 4.3.2 Shutting down", "454 4.7.0 Later", "554 5.7.1 Go away", "504 5.5.4 What?"])
def test_any_refusal_before_mail_is_the_relays_fault(phase: Phase, said: str) -> None:
    outcome = refused(phase, said)
    assert at_fault(outcome)
    assert outcome.code == int(said[:3])


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize(
    "said", ["530 5.7.0 Authenticate first", "534 5.7.9 Too weak", "535 5.7.8 Wrong", "550 5.7.30 Basic auth disabled"]
)
def test_no_mail_is_burnt_for_a_wrong_password(phase: Phase, said: str) -> None:
    outcome = refused(phase, said)
    assert at_fault(outcome)
    assert "login" in outcome.reason


@pytest.mark.parametrize("phase", FROM_MAIL_ON)
def test_421_is_the_relays_fault_anywhere(phase: Phase) -> None:
    assert at_fault(refused(phase, "421 4.7.0 Try again later"))


@pytest.mark.parametrize("phase", FROM_MAIL_ON)
@pytest.mark.parametrize(
    "said", ["450 4.2.0 Greylisted", "451 4.3.0 Later", "452 4.5.3 Too many recipients", "452 4.2.2 Full"]
)
def test_4yz_puts_off_this_mail_alone(phase: Phase, said: str) -> None:
    outcome = refused(phase, said)
    assert isinstance(outcome, Deferred)
    # At MAIL there are no recipients yet, so 'too many' means too many mails.
    limit = phase is Phase.MAIL and "Too many" in said
    assert (outcome.code, outcome.relay_at_fault, outcome.for_everybody) == (int(said[:3]), limit, limit)


@pytest.mark.parametrize("phase", FROM_MAIL_ON)
@pytest.mark.parametrize(
    "said", ["550 5.1.1 No such user", "552 5.3.4 Too big", "553 5.1.8 Bad sender", "554 Spam", "501 5.1.7 What?"]
)
def test_other_5yz_fails(phase: Phase, said: str) -> None:
    outcome = refused(phase, said)
    assert isinstance(outcome, Failed)
    assert outcome.code == int(said[:3])


@pytest.mark.parametrize(
    "said",
    [
        "550 5.7.1 Relaying denied",
        "554 5.7.1 <kim@example.com>: Relay access denied",
        "550 5.7.1 Unable to relay",
        "551 relay not permitted",
        "553 sorry, relaying\nis prohibited",
    ],
)
def test_relaying_denied_puts_off_this_mail_alone(said: str) -> None:
    outcome = refused(Phase.RCPT, said)
    assert isinstance(outcome, Deferred)
    assert not outcome.relay_at_fault
    assert not is_permanent(Reply.parse(int(said[:3]), said[4:]))


def test_too_many_recipients_is_for_now_whatever_its_first_digit() -> None:
    """RFC 5321 §4.5.3.1.10: it is temporary with either code."""
    assert isinstance(refused(Phase.RCPT, "552 Too many recipients"), Deferred)
    assert isinstance(refused(Phase.RCPT, "552 5.2.2 Mailbox full"), Failed)


@pytest.mark.parametrize("phase", [Phase.MAIL, Phase.RCPT, Phase.DATA, Phase.CONTENT])
def test_a_connection_lost_before_the_final_dot_puts_off(phase: Phase) -> None:
    outcome = classify(ConnectionLost(phase, "the connection was lost"))
    assert isinstance(outcome, Deferred)
    assert not outcome.relay_at_fault


def test_a_connection_lost_after_the_final_dot_is_in_doubt() -> None:
    outcome = classify(ConnectionLost(Phase.FINAL_DOT, "the server did not answer in time"))
    assert outcome == InDoubt(cause=Cause.IN_DOUBT, reason="the server did not answer in time after the final dot")


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("450 4.2.0 Greylisted, try again in 60 seconds", 60),
        ("450 4.2.0 Greylisted", GREYLISTED_FOR),
        ("451 4.7.1 Please try again later", GREYLISTED_FOR),
        ("432 4.3.2 Concurrent connections limit", None),
        ("421 4.7.0 Too fast, wait 5 min", 300),
        ("554 5.7.1 Relay access denied, log in and retry in 20 s", 20),
    ],
)
def test_a_server_says_when_to_come_back(said: str, seconds: float | None) -> None:
    outcome = refused(Phase.RCPT, said)
    assert isinstance(outcome, Deferred)
    assert outcome.retry_in == seconds


def test_a_pool_that_is_busy_puts_off_for_a_moment() -> None:
    outcome = classify(PoolBusy(Phase.CONNECT, "all 10 sessions are in use"))
    assert isinstance(outcome, Deferred)
    assert (outcome.relay_at_fault, outcome.retry_in, outcome.code) == (False, 1, None)


def test_an_address_beyond_ascii_that_the_server_cannot_take_fails() -> None:
    reason = "the server does not accept addresses with non-ASCII characters (no SMTPUTF8)"
    failed = Failed(cause=Cause.NO_SMTPUTF8, reason=reason, phase=Phase.MAIL)
    assert classify(NotOffered(Phase.MAIL, "no SMTPUTF8")) == failed


@pytest.mark.parametrize("said", ["250 2.0.0 Ok", "354 Go on"])
def test_an_answer_that_makes_no_sense_is_no_refusal(said: str) -> None:
    """After the final dot, such a reply does not even mean that the mail was refused."""
    assert verdict(refused(Phase.AUTH, said)) == ALL_WAIT
    assert verdict(refused(Phase.DATA, said)) == WAITS
    assert isinstance(refused(Phase.FINAL_DOT, said), InDoubt)


@pytest.mark.parametrize("said", ["553 Sender address rejected", "550 5.1.8 No such domain", "501 5.1.7 Syntax"])
def test_a_wrong_sender_of_the_configuration_burns_no_mail(said: str) -> None:
    outcome = refused(Phase.MAIL, said, own_sender=True)
    assert isinstance(outcome, Deferred)
    assert (outcome.cause, outcome.relay_at_fault, outcome.for_everybody) == (Cause.CONFIG_SENDER, True, False)
    assert "from_email" in outcome.reason
    assert isinstance(refused(Phase.MAIL, said), Failed)


NOT_ALLOWED = [
    "553 5.7.1 Sender address rejected: not owned by user",
    "553 Relaying disallowed as noreply@example.com",
    "554 5.2.252 SendAsDenied; lee@example.com not allowed to send as kim@example.com",
    "550 5.7.60 SMTP; Client does not have permissions to send as this sender",
    "554 Message rejected: Email address is not verified.",
    "550 The from address does not match a verified Sender Identity.",
    "550 5.7.1 The 'From' address you supplied is not a Sender Signature on your account",
    "553 5.7.1 Sender rejected: not your address",
    "553 5.7.1 Not your address",
    "550 You are not an authorized sender",
    "550 5.7.1 The account does not own this address",
    "550 You are not permitted to send mail from this address",
    "450 4.7.1 Sender address rejected: not owned by user",
]


@pytest.mark.parametrize("phase", FROM_MAIL_ON)
@pytest.mark.parametrize("said", NOT_ALLOWED)
def test_a_sender_that_the_account_may_not_use_burns_no_mail(phase: Phase, said: str) -> None:
    """The configuration's sender stops all its mail; a mail's own sender stops only that mail."""
    ours, its_own = refused(phase, said, own_sender=True), refused(phase, said)
    assert isinstance(ours, Deferred)
    assert isinstance(its_own, Deferred)
    assert (ours.cause, ours.relay_at_fault, ours.for_everybody) == (Cause.CONFIG_SENDER, True, True)
    assert "from_email" in ours.reason
    its = (its_own.cause, its_own.relay_at_fault, its_own.for_everybody)
    assert its == (Cause.SENDER_NOT_ALLOWED, False, False)


@pytest.mark.parametrize("said", ["552 5.3.4 Too big", "550 5.3.4 Too big"])
def test_a_mail_that_is_too_big_fails_even_with_its_own_sender(said: str) -> None:
    assert isinstance(refused(Phase.MAIL, said, own_sender=True), Failed)


@pytest.mark.parametrize(
    ("phase", "said", "its_own"),
    [
        (Phase.RCPT, "553 5.7.1 Sender address rejected: not owned by user", WAITS),
        (Phase.FINAL_DOT, "554 Message rejected: Email address is not verified.", WAITS),
        (Phase.FINAL_DOT, "550 5.7.26 Unauthenticated", NEVER),
    ],
)
def test_a_server_may_look_at_the_sender_late(phase: Phase, said: str, its_own: str) -> None:
    assert verdict(refused(phase, said, own_sender=True)) == ALL_WAIT
    assert verdict(refused(phase, said)) == its_own


def test_a_refused_sender_of_the_configuration_settles_no_recipient() -> None:
    said = replies("553 5.7.1 Sender address rejected", "550 5.1.1 Unknown", "450 4.2.0 Later")
    outcome = classify_recipients(said, own_sender=True)
    assert isinstance(outcome, Deferred)
    assert outcome.relay_at_fault
    assert list(outcome.refused) == ["1@example.com", "2@example.com"]


def test_of_several_refusals_the_one_about_all_mail_decides() -> None:
    """It also applies to all later mails."""
    outcome = classify_recipients(
        replies("450 4.2.0 Later", "550 5.7.705 Access denied, tenant has exceeded threshold", "550 5.1.1 No")
    )
    assert isinstance(outcome, Deferred)
    assert (outcome.cause, outcome.code, outcome.for_everybody) == (Cause.ACCOUNT_BLOCKED, 550, True)


#: Refusals of the account. Each has the same meaning in every phase.
ACCOUNT = [
    ("550 5.7.708 Service unavailable. Access denied, traffic not accepted from this IP", Cause.ACCOUNT_IP),
    ("550 5.7.705 Access denied, tenant has exceeded threshold", Cause.ACCOUNT_BLOCKED),
    (
        "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; Failed to process message",
        Cause.ACCOUNT_QUOTA,
    ),
    ("554 5.2.2 mailbox full; STOREDRV.Submission.Exception:QuotaExceededException", Cause.ACCOUNT_FULL),
    ("450 4.2.1 Peak SMTP relay limit exceeded for customer", Cause.ACCOUNT_RATE),
    ("535 5.7.0 The email limit is reached", Cause.ACCOUNT_QUOTA),
    ("550 5.4.5 Daily SMTP relay limit exceeded for user", Cause.ACCOUNT_QUOTA),
    ("550 5.7.1 Email quota exceeded", Cause.ACCOUNT_QUOTA),
    ("451 Authentication failed: Maximum credits exceeded", Cause.ACCOUNT_CREDIT),
    ("550 5.4.6 Unusual sending activity detected.", Cause.ACCOUNT_BLOCKED),
    ("550 message sending for this account is disabled", Cause.ACCOUNT_BLOCKED),
    ("454 Throttling failure: Daily message quota exceeded", Cause.ACCOUNT_QUOTA),
]


@pytest.mark.parametrize("own_sender", [True, False])
@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize(("said", "cause"), ACCOUNT)
def test_a_refusal_of_the_account_stops_all_mail_and_burns_none(
    said: str, cause: Cause, phase: Phase, own_sender: bool
) -> None:
    outcome = refused(phase, said, own_sender=own_sender)
    assert isinstance(outcome, Deferred)
    assert (outcome.cause, outcome.relay_at_fault, outcome.for_everybody) == (cause, True, True)
    assert not is_permanent(reply(said))


@pytest.mark.parametrize("code", [500, 501, 502, 503, 504, 555])
@pytest.mark.parametrize("text", ["", "5.5.1 What?", "5.7.1 Sender refused", "Sender address rejected", "5.7.1 Spam"])
@pytest.mark.parametrize("own_sender", [True, False])
def test_a_command_that_was_not_understood_is_not_the_senders_fault(code: int, text: str, own_sender: bool) -> None:
    """RFC 5321 §4.2.2: wrong parameters may be specific to this mail, an unknown command is not."""
    outcome = refused(Phase.MAIL, f"{code} {text}", own_sender=own_sender)
    assert isinstance(outcome, Deferred)
    fault = (outcome.cause, outcome.relay_at_fault, outcome.for_everybody)
    assert fault == (Cause.PROTOCOL, True, code in (500, 502, 503))


@pytest.mark.parametrize(
    "said",
    [
        "421 4.7.0 Too many connections",
        "450 4.7.1 Error: too much mail from 192.0.2.1",
        "451 Rate limit exceeded",
        "452 Too many messages in this session",
        "452 4.5.3 Too many recipients: Too many messages sent",
        "451 You have exceeded your messaging limits",
        "421 4.7.28 Unusual",
        "451 4.7.500 Server busy",
        "550 Too many messages. Try again in 92 seconds.",
    ],
)
def test_a_limit_at_mail_stops_all_mail(said: str) -> None:
    """The server does not know the mail yet, so the next mail would reach the limit too."""
    outcome = refused(Phase.MAIL, said)
    assert isinstance(outcome, Deferred)
    assert (outcome.cause, outcome.relay_at_fault, outcome.for_everybody) == (Cause.LIMIT, True, True)


@pytest.mark.parametrize("phase", [Phase.RCPT, Phase.DATA, Phase.FINAL_DOT])
def test_a_limit_after_mail_may_be_of_this_mail(phase: Phase) -> None:
    outcome = refused(phase, "450 4.7.1 Rate limit exceeded")
    assert isinstance(outcome, Deferred)
    assert (outcome.cause, outcome.relay_at_fault, outcome.for_everybody) == (Cause.LIMIT, True, False)


@pytest.mark.parametrize(("own_sender", "for_everybody"), [(True, True), (False, False)])
@pytest.mark.parametrize("said", ["550 5.7.1 Client host rejected: not in the list", "550 5.7.1 Unable to relay"])
def test_a_host_that_is_refused_at_mail_stops_the_mail_of_the_configuration(
    said: str, own_sender: bool, for_everybody: bool
) -> None:
    """For a mail with its own sender, that sender may be the reason."""
    outcome = refused(Phase.MAIL, said, own_sender=own_sender)
    assert isinstance(outcome, Deferred)
    assert (outcome.relay_at_fault, outcome.for_everybody) == (for_everybody, for_everybody)


@pytest.mark.parametrize(
    ("said", "kind", "code", "retry_in"),
    [
        (["550 5.1.1 No", "550 5.1.1 No"], Failed, 550, None),
        (["550 5.1.1 No", "450 4.2.0 Later"], Deferred, 450, None),
        (["450 4.2.0 In 30 s", "452 4.2.2 Full, try in 60 s"], Deferred, 450, 60),
        (["550 5.1.1 No", "550 5.7.1 Relaying denied"], Deferred, 550, None),
        (["452 4.5.3 Too many recipients", "452 4.5.3 Too many recipients"], Deferred, 452, None),
        (["552 Too many recipients"], Deferred, 552, None),
    ],
)
def test_the_most_hopeful_reply_decides_when_all_recipients_are_refused(
    said: list[str], kind: type[Outcome], code: int, retry_in: float | None
) -> None:
    outcome = classify_recipients(replies(*said))
    assert (type(outcome), outcome.code) == (kind, code)
    assert isinstance(outcome, Failed | Deferred)
    assert outcome.refused == replies(*said)
    assert (outcome.retry_in if isinstance(outcome, Deferred) else None) == retry_in


@pytest.mark.parametrize(
    ("said", "retry_in"),
    [
        ([], None),
        (["550 5.1.1 No"], None),
        (["452 4.5.3 Too many recipients", "552 Too many recipients", "550 5.1.1 No"], 0),
        (["452 4.5.3 Too many recipients", "450 4.2.0 Later"], None),
        (["452 4.5.3 Too many recipients", "450 4.2.0 Greylisted"], GREYLISTED_FOR),
        (["450 4.2.0 Greylisted for 60 seconds", "451 4.3.0 In 2 minutes", "450 4.2.0 Later"], 120),
    ],
)
def test_those_put_off_are_tried_when_the_server_is_ready(said: list[str], retry_in: float | None) -> None:
    """Immediately, if there were only too many at a time (RFC 5321 §4.5.3.1.10)."""
    taken = accepted(250, (ADDRESS,), replies(*said), reply=Reply.parse(250, "2.0.0 queued\nas 1"))
    assert taken == Accepted(
        code=250, accepted=(ADDRESS,), refused=replies(*said), retry_in=retry_in, reply="2.0.0 queued as 1"
    )
    assert "queued" not in repr(taken)


anything = st.builds(
    lambda code, enhanced, words, text: Reply.parse(code, f"{enhanced} {words} {text} <{ADDRESS}>"),
    st.integers(200, 599),
    st.sampled_from(["", "4.2.0", "4.7.1", "5.1.1", "5.7.1", "5.7.30", "5.5.3", "5.1.8", "5.7.705", "2.0.0"]),
    st.sampled_from(["", *(said[4:] for _, said, _, _ in ROWS)]),
    st.text(max_size=40),
)


@given(anything, st.sampled_from(Phase), st.booleans())
def test_no_reply_of_a_server_gets_into_the_reason_or_ends_without_an_outcome(
    reply: Reply, phase: Phase, own_sender: bool
) -> None:
    outcome = classify(Refused(phase, "", reply), own_sender=own_sender)
    assert isinstance(outcome, Failed) <= reply.permanent
    assert isinstance(outcome, InDoubt) == (phase is Phase.FINAL_DOT and reply.code < 400)
    assert at_fault(outcome) >= phase.before_mail
    assert not (isinstance(outcome, Failed) and reply.code == 503)
    assert not (isinstance(outcome, Failed) and outcome.cause in ABOUT_US | ADMIN_FIXABLE | {Cause.TOO_MANY_RECIPIENTS})
    if isinstance(outcome, Deferred):
        assert outcome.relay_at_fault >= outcome.for_everybody
        assert outcome.for_everybody >= (outcome.cause in ACCOUNT_WIDE or phase.before_mail)
    assert ADDRESS not in repr(outcome)
    assert "@" not in outcome.reason
    assert len(outcome.reason) <= 255


@given(st.dictionaries(st.sampled_from(["1@x", "2@x", "3@x"]), anything, min_size=1), st.booleans())
def test_whatever_is_said_of_the_recipients_has_an_outcome(said: dict[str, Reply], own_sender: bool) -> None:
    outcome = classify_recipients(said, own_sender=own_sender)
    assert isinstance(outcome, Failed) <= all(is_permanent(reply) for reply in said.values())
    rest = accepted(250, ("4@x",), said)
    assert rest.retry_in is None or any(not is_permanent(reply) for reply in said.values())


@given(st.lists(st.integers(0, 9), min_size=2, max_size=2), st.text(max_size=60), st.sampled_from(Phase), st.booleans())
def test_no_4yz_fails_a_mail(digits: list[int], text: str, phase: Phase, own_sender: bool) -> None:
    """RFC 5321 §4.2.1: the mail may be tried again."""
    outcome = classify(Refused(phase, "", Reply.parse(int(f"4{digits[0]}{digits[1]}"), text)), own_sender=own_sender)
    assert isinstance(outcome, Deferred)


@pytest.mark.parametrize(
    ("failure", "cause"),
    [
        (CannotConnect(Phase.CONNECT, "No route to host"), Cause.NOT_CONNECTED),
        (TLSFailed(Phase.STARTTLS, "not trusted"), Cause.TLS_FAILED),
        (NotOffered(Phase.AUTH, "no AUTH"), Cause.NOT_OFFERED),
        (NoToken(Phase.AUTH, "no token"), Cause.NO_TOKEN),
        (PoolBusy(Phase.CONNECT, "all lent"), Cause.POOL_BUSY),
        (ConnectionLost(Phase.RCPT, "any words"), Cause.CONNECTION_LOST),
        (SMTPFailure(Phase.EHLO, "any words"), Cause.INTERNAL_ERROR),
    ],
)
def test_what_has_no_reply_has_a_cause_by_its_kind(failure: SMTPFailure, cause: Cause) -> None:
    """The text of the failure does not matter."""
    assert classify(failure).cause == cause


@pytest.mark.parametrize(("error", "cause"), [(TimeoutError(), Cause.SILENT), (Malformed(), Cause.MALFORMED)])
def test_a_connection_is_lost_for_what_happened_to_it(error: Exception, cause: Cause) -> None:
    failure = ConnectionLost(Phase.RCPT, "any words")
    failure.__cause__ = error
    assert classify(failure).cause == cause
