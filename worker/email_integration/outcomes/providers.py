"""Replies that are particular to providers: rules as data, which apply before everything else.

Most are documented on a page of the provider, which ``tests/provider_replies.py`` names beside each reply. The others
are from logs that users have published.
"""

from __future__ import annotations

from typing import NamedTuple

from email_integration.smtp import Phase

from .causes import Cause
from .codes import ABOUT_RECIPIENT, ANYWHERE, SENDING


class Rule(NamedTuple):
    """A rule for a reply whose code begins with ``code``, with this enhanced code and this phrase.

    ``enhanced`` is '' for none and '*' for any or none. ``phrase`` is in lower case, and contains no address.
    """

    code: str
    enhanced: str
    phrase: str
    cause: Cause
    phases: frozenset[Phase] = ANYWHERE


_MICROSOFT = (
    Rule("5", "*", "submissionquotaexceeded", Cause.ACCOUNT_QUOTA),
    Rule("5", "5.2.2", "submission quota exceeded", Cause.ACCOUNT_QUOTA),
    Rule("5", "*", "sender's submission quota was exceeded", Cause.ACCOUNT_QUOTA),
    Rule("5", "*", "sender throttled due to continuous", Cause.ACCOUNT_RATE),
    Rule("4", "4.3.2", "sender thread limit exceeded", Cause.ACCOUNT_RATE),
    Rule("4", "4.3.2", "recipient thread limit exceeded", Cause.MAILBOX_BUSY),
    Rule("5", "*", "sendasdenied", Cause.SENDER_NOT_ALLOWED),
    # The sender's own mailbox; with 'STOREDRV.Deliver' it is the recipient's.
    Rule("5", "5.2.2", "storedrv.submission", Cause.ACCOUNT_FULL),
    Rule("5", "", "storedrv.submission.exception:quotaexceeded", Cause.ACCOUNT_FULL),
    Rule("5", "5.1.8", "bad outbound sender", Cause.ACCOUNT_BLOCKED),
    Rule("5", "5.1.0", "sender denied", Cause.UNWANTED, ABOUT_RECIPIENT),
    Rule("5", "5.1.10", "recipient not found", Cause.NO_MAILBOX, ABOUT_RECIPIENT),
    Rule("5", "5.4.1", "recipient address rejected", Cause.NO_MAILBOX, ABOUT_RECIPIENT),
    Rule("5", "5.4.1", "relay access denied", Cause.RELAYING, ABOUT_RECIPIENT),
    Rule("5", "5.7.1", "blocked by customer allow list", Cause.CLIENT),
    Rule("535", "5.7.139", "sts service was unreachable", Cause.LOGIN_LATER),
)

_GOOGLE = (
    Rule("4", "4.2.1", "smtp relay limit exceeded", Cause.ACCOUNT_RATE),
    Rule("4", "", "smtp relay limit exceeded", Cause.ACCOUNT_RATE),
    Rule("4", "4.2.1", "trying to contact is receiving", Cause.MAILBOX_BUSY, ABOUT_RECIPIENT),
    Rule("5", "5.2.1", "trying to contact is receiving", Cause.MAILBOX_BUSY, ABOUT_RECIPIENT),
    Rule("550", "5.4.5", "daily", Cause.ACCOUNT_QUOTA),
    Rule("550", "5.7.1", "daily smtp relay", Cause.ACCOUNT_QUOTA),
    Rule("550", "5.7.1", "email quota exceeded", Cause.ACCOUNT_QUOTA),
    Rule("550", "5.5.3", "too many recipients for this sender", Cause.ACCOUNT_QUOTA),
    Rule("550", "5.7.1", "this email has been rate limited", Cause.ACCOUNT_RATE),
    Rule("451", "4.3.0", "multiple destination domains per transaction", Cause.TOO_MANY_RECIPIENTS, ABOUT_RECIPIENT),
    Rule("550", "5.7.0", "suspended due to abuse", Cause.ACCOUNT_BLOCKED),
    Rule("550", "5.7.0", "mail sending denied", Cause.ACCOUNT_BLOCKED),
    Rule("550", "5.7.1", "not authorized to send email directly", Cause.ACCOUNT_IP),
    # The address of this machine, or the sender's domain: the server does not say which.
    Rule("550", "*", "credentials for relay", Cause.CLIENT),
    Rule("530", "5.5.1", "authentication required", Cause.LOGIN_NEEDED),
    Rule("554", "5.7.0", "too many unauthenticated commands", Cause.LOGIN_NEEDED),
    # The registry gives these codes another meaning.
    Rule("", "4.7.27", "spf", Cause.UNPROVEN, SENDING),
    Rule("", "5.7.27", "spf", Cause.UNPROVEN, SENDING),
    Rule("", "4.7.29", "tls connection", Cause.STARTTLS_FIRST, SENDING),
    Rule("", "5.7.29", "tls connection", Cause.STARTTLS_FIRST, SENDING),
    Rule("", "4.7.30", "dkim", Cause.UNPROVEN, SENDING),
    Rule("", "5.7.30", "dkim", Cause.UNPROVEN, SENDING),
    Rule("", "4.7.32", "aligned", Cause.UNPROVEN, SENDING),
    Rule("", "5.7.32", "aligned", Cause.UNPROVEN, SENDING),
)

_AMAZON = (
    Rule("454", "*", "daily message quota exceeded", Cause.ACCOUNT_QUOTA),
    Rule("454", "*", "sending rate exceeded", Cause.ACCOUNT_RATE),
    Rule("535", "*", "account not subscribed", Cause.ACCOUNT_BLOCKED),
    Rule("554", "*", "suspended for this account", Cause.ACCOUNT_BLOCKED),
    Rule("554", "*", "paused for this account", Cause.ACCOUNT_BLOCKED),
    Rule("554", "*", "account is paused", Cause.ACCOUNT_BLOCKED),
    Rule("554", "", "is not authorized to perform", Cause.SENDER_NOT_ALLOWED),
    Rule("554", "", "address is not verified", Cause.SENDER_NOT_ALLOWED),
    Rule("554", "", "domain is not verified", Cause.SENDER_NOT_ALLOWED),
)

_ZOHO = (
    Rule("55", "*", "relaying disallowed as", Cause.SENDER_NOT_ALLOWED),
    Rule("550", "5.4.6", "unusual sending activity", Cause.ACCOUNT_BLOCKED),
    Rule("550", "", "unusual sending activity", Cause.ACCOUNT_BLOCKED),
    Rule("554", "5.1.8", "sender address blocked", Cause.ACCOUNT_BLOCKED),
    Rule("554", "5.1.8", "outgoing blocked", Cause.ACCOUNT_BLOCKED),
    Rule("554", "", "email outgoing blocked", Cause.ACCOUNT_BLOCKED),
    Rule("5", "5.2.1", "subject is mandatory", Cause.CONTENT),
)

_SENDGRID = (
    Rule("4", "*", "not authorized to send from that email address", Cause.SENDER_NOT_ALLOWED),
    Rule("451", "*", "maximum credits exceeded", Cause.ACCOUNT_CREDIT),
    Rule("452", "*", "too many recipients received this hour", Cause.ACCOUNT_RATE),
    Rule("550", "*", "unauthenticated senders not allowed", Cause.LOGIN_NEEDED),
    Rule("550", "*", "verified sender identity", Cause.SENDER_NOT_ALLOWED),
    Rule("525", "*", "unauthorized ip address", Cause.CLIENT),
)

_OTHERS = (
    # Brevo.
    Rule("502", "5.7.0", "please authenticate first", Cause.LOGIN_NEEDED),
    Rule("535", "5.7.0", "email limit is reached", Cause.ACCOUNT_QUOTA),
    # Mailgun.
    Rule("5", "*", "is not allowed to send: account", Cause.ACCOUNT_BLOCKED),
    # Postmark.
    Rule("5", "*", "sender signature", Cause.SENDER_NOT_ALLOWED),
    # Yandex.
    Rule("553", "5.7.1", "not owned by auth user", Cause.SENDER_NOT_ALLOWED),
    Rule("5", "*", "policy rejection on the target address", Cause.DISABLED, ABOUT_RECIPIENT),
    Rule("451", "4.5.1", "has exceeded their message rate limit", Cause.MAILBOX_BUSY, ABOUT_RECIPIENT),
    # mail.ru.
    Rule("503", "", "authorization required", Cause.LOGIN_NEEDED),
    Rule("550", "*", "sending for this account is disabled", Cause.ACCOUNT_BLOCKED),
    Rule("550", "*", "not local sender over smtp", Cause.SENDER_NOT_ALLOWED),
    # Yahoo: the address of this machine, and the content, for which it uses other enhanced codes.
    Rule("", "*", "permanently deferred", Cause.CLIENT),
    Rule("5", "*", "vs99-ip", Cause.CLIENT),
    Rule("554", "5.7.9", "policy reasons", Cause.POLICY, SENDING),
)

RULES: tuple[Rule, ...] = (*_MICROSOFT, *_GOOGLE, *_AMAZON, *_ZOHO, *_SENDGRID, *_OTHERS)


def recognise(phase: Phase, code: int, enhanced: str, text: str) -> Cause | None:
    """Return the cause of the first matching rule, or None."""
    said = text.lower()
    return next(
        (
            rule.cause
            for rule in RULES
            if str(code).startswith(rule.code)
            and rule.enhanced in ("*", enhanced)
            and phase in rule.phases
            and rule.phrase in said
        ),
        None,
    )
