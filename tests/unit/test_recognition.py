"""The cause of a reply, and its sentence."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from email_integration.outcomes.causes import Cause
from email_integration.outcomes.providers import RULES, Rule
from email_integration.outcomes.recognition import quote, reason, recognise
from email_integration.outcomes.schedule import hint
from email_integration.smtp import Phase, Reply


def reply(said: str) -> Reply:
    return Reply.parse(int(said[:3]), said[4:])


@pytest.mark.parametrize(
    ("phase", "said", "words"),
    [
        (Phase.RCPT, "550 5.1.1 <kim@example.com>", "the server says the mailbox does not exist (550 5.1.1)"),
        (Phase.RCPT, "452 4.2.2 Over quota", "the mailbox is full (452 4.2.2)"),
        (Phase.RCPT, "451 4.7.1 Greylisted", "the server asks us to try again later: greylisting (451 4.7.1)"),
        (Phase.FINAL_DOT, "554 Spam", "the server's policy refuses the mail: it looks like spam (554)"),
        (Phase.AUTH, "535 5.7.8 No", f"{Cause.LOGIN.words} (535 5.7.8)"),
        (Phase.RCPT, "550 5.2.0 No", "the recipient was refused (550 5.2.0)"),
        (Phase.RCPT, "450 4.2.0 No", "the recipient was temporarily refused (450 4.2.0)"),
        (Phase.FINAL_DOT, "554 No", "the mail was refused (554)"),
        (Phase.GREETING, "450 No", "the connection was temporarily refused (450)"),
    ],
)
def test_a_reason_is_words_and_the_codes(phase: Phase, said: str, words: str) -> None:
    assert reason(phase, reply(said)) == words


@pytest.mark.parametrize(
    "address", ["<spam@example.com>", "no-such-user@example.com", "<relaying-denied@example.com>:", "<a greylist@x>"]
)
def test_the_words_in_an_address_mean_nothing(address: str) -> None:
    assert recognise(Phase.RCPT, reply(f"450 4.2.0 {address} No")) is Cause.PUT_OFF


@pytest.mark.parametrize(
    ("enhanced", "text", "quoted"),
    [
        ("5.1.1", "5.1.1 No such user", "5.1.1 No such user"),
        ("5.1.1", "No such user", "5.1.1 No such user"),
        ("5.7.1", "5.7.1 Your mail\n5.7.1   looks like\r\n5.7.1 spam", "5.7.1 Your mail looks like spam"),
        ("5.1.1", "#5.1.1 No such\n5.1.1: user", "5.1.1 No such user"),
        ("", "No\0such\x1b[31muser\u202e\ud800", "No such [31muser"),
        ("", "", ""),
        ("5.1.1", "5.1.1", "5.1.1"),
        ("", "x" * 10_000, "x" * 500),
    ],
)
def test_what_a_server_says_is_quoted_in_one_line(enhanced: str, text: str, quoted: str) -> None:
    assert quote(Reply(code=550, enhanced=enhanced, text=text)) == quoted


@pytest.mark.parametrize("phase", [Phase.AUTH, Phase.MAIL, Phase.RCPT, Phase.FINAL_DOT])
@pytest.mark.parametrize(
    "text",
    [
        *("x", "<", "a@", "sender ", "1 s, ", "relay size user ip ", "(", "550 5.1.1\n"),
        *("daily ", "limit exceeded over ", "from address sender not ", "credits no more ", "mail from ", "rate "),
    ],
)
def test_a_long_reply_takes_no_longer_to_understand(phase: Phase, text: str) -> None:
    """A pattern that backtracks from every position takes ten thousand times as long for a hundred times the text."""
    for code in (450, 550):
        long = Reply(code=code, text=text * 100_000)
        begun = time.process_time()
        reason(phase, long)
        hint(quote(long))
        assert time.process_time() - begun < 0.1


texts = st.one_of(st.text(), st.binary().map(lambda raw: raw.decode("utf-8", "replace")))
wordings = st.builds(
    lambda enhanced, words, text: f"{enhanced}{' '.join(words)} <kim@example.com> {text}",
    st.sampled_from(["", "4.2.0 ", "4.7.1 ", "5.1.1 ", "5.7.1 ", "5.7.30 ", "5.999.999 ", "2.0.0 "]),
    st.lists(st.sampled_from(["try again", "in 5 minutes", "mailbox", "user", "full", "relay", "denied", "too many"])),
    texts,
)


@given(st.sampled_from(Phase), st.integers(200, 599), st.one_of(texts, wordings))
def test_a_reason_is_ours_whatever_the_server_says(phase: Phase, code: int, text: str) -> None:
    """It has no address and no text of the server, and fits into its column."""
    said = Reply.parse(code, text)
    words = reason(phase, said)
    fixed = {
        *(cause.words for cause in Cause),
        *(f"the {what} was {done}" for what in WHAT for done in ("refused", "temporarily refused")),
    }
    assert words.removesuffix(f" ({said.short})") in fixed
    assert "@" not in words
    assert len(words) <= 255
    assert len(quote(said)) <= 500
    assert quote(said).isprintable()


WHAT = ("connection", "sender", "recipient", "mail")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.phrase)
def test_a_rule_of_a_provider_can_apply_and_comes_first(rule: Rule) -> None:
    """It is in lower case, names no address, and no earlier rule shadows it."""
    assert rule.phrase == rule.phrase.lower().strip()
    code = rule.code.ljust(3, "0") if rule.code else {"4": "450", "5": "550"}[rule.enhanced[:1].replace("*", "5")]
    enhanced = "" if rule.enhanced in ("", "*") else f"{rule.enhanced} "
    text = f"{enhanced}No: {rule.phrase.title()}; spam, user unknown, <kim@example.com>"
    for phase in rule.phases:
        assert recognise(phase, reply(f"{code} {text}")) is rule.cause
    assert recognise(Phase.RCPT, reply("550 5.1.1 <kim@example.com>")) is Cause.NO_MAILBOX


@pytest.mark.parametrize(
    ("phase", "said", "cause"),
    [
        # 1. A provider's own rule before the enhanced code, which says 'mailbox disabled' or 'mailbox full'.
        (Phase.RCPT, "450 4.2.1 Peak SMTP relay limit exceeded for customer", Cause.ACCOUNT_RATE),
        (Phase.FINAL_DOT, "554 5.2.2 mailbox full; STOREDRV.Submission.Exception", Cause.ACCOUNT_FULL),
        # ... but with another code it is not that provider's rule.
        (Phase.RCPT, "550 5.1.1 Peak SMTP relay limit exceeded for customer", Cause.NO_MAILBOX),
        # 2. The enhanced code before the text, ...
        (Phase.RCPT, "550 5.1.1 Relay access denied, blocked using spamhaus", Cause.NO_MAILBOX),
        (Phase.RCPT, "450 4.1.1 Greylisted, too many connections", Cause.NO_MAILBOX),
        (Phase.FINAL_DOT, "552 5.3.4 Spam: size of the mailbox", Cause.TOO_BIG),
        (Phase.AUTH, "535 5.7.8 Relay access denied", Cause.LOGIN),
        # ... which can only refine it.
        (Phase.AUTH, "535 5.7.8 Application-specific password required", Cause.APP_PASSWORD),
        (Phase.AUTH, "535 5.7.0 Too many failed logins", Cause.TOO_MANY_LOGINS),
        (Phase.RCPT, "550 5.7.1 Relay access denied", Cause.RELAYING),
        (Phase.RCPT, "550 5.0.0 No such user", Cause.NO_MAILBOX),
        # 3. The text before the code.
        (Phase.RCPT, "553 No such user", Cause.NO_MAILBOX),
        (Phase.RCPT, "451 Greylisted", Cause.GREYLISTED),
        (Phase.AUTH, "535 The daily limit of mails is reached", Cause.LIMIT),
        # 4. The code.
        (Phase.RCPT, "553 No", Cause.BAD_ADDRESS),
        (Phase.RCPT, "451 No", Cause.TROUBLE),
        (Phase.RCPT, "550 5.7.0 No", Cause.POLICY),
        (Phase.AUTH, "535 No", Cause.LOGIN),
        (Phase.MAIL, "503 No", Cause.PROTOCOL),
    ],
)
def test_the_most_specific_part_of_a_reply_decides(phase: Phase, said: str, cause: Cause) -> None:
    """In this order: the provider, the enhanced code, the text, the code."""
    assert recognise(phase, reply(said)) is cause


DECISIVE = ["1.1", "1.2", "1.3", "1.6", "1.10", "2.1", "2.2", "2.3", "2.4", "3.1", "3.4", "4.6", "5.3", "6.7", "7.2"]
PHRASES = [
    "spam",
    "relay access denied",
    "greylisted",
    "user unknown",
    "mailbox full",
    "too many connections",
    "sender rejected",
    "authentication required",
    "your account is suspended",
    "blocked using zen.example.org",
    "sending limit reached",
    "message too big",
    "DKIM",
    "virus",
    "try again later",
    "access denied",
]


@given(
    st.sampled_from([Phase.RCPT, Phase.DATA, Phase.FINAL_DOT]),
    st.sampled_from(["450", "452", "550", "554", "553"]),
    st.sampled_from(DECISIVE),
    st.lists(st.sampled_from(PHRASES), max_size=4),
)
def test_general_words_never_override_an_enhanced_code(
    phase: Phase, code: str, detail: str, phrases: list[str]
) -> None:
    plain = recognise(phase, reply(f"{code} {code[0]}.{detail} No"))
    assert recognise(phase, reply(f"{code} {code[0]}.{detail} {', '.join(phrases)}")) is plain
