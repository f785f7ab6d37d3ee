"""What a refusal is called."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from email_integration.outcomes.causes import Cause, quote, reason, recognise
from email_integration.outcomes.schedule import hint
from email_integration.smtp import Phase, Reply


def reply(said: str) -> Reply:
    return Reply.parse(int(said[:3]), said[4:])


@pytest.mark.parametrize(
    ("phase", "said", "words"),
    [
        (Phase.RCPT, "550 5.1.1 <kim@example.com>", "the server says the mailbox does not exist (550 5.1.1)"),
        (Phase.RCPT, "452 4.2.2 Over quota", "the mailbox is full (452 4.2.2)"),
        (Phase.RCPT, "451 4.7.1 Greylisted", "the server asks us to come back later: greylisting (451 4.7.1)"),
        (Phase.FINAL_DOT, "554 Spam", "the server's policy refuses the mail: it looks like spam (554)"),
        (Phase.AUTH, "535 5.7.8 No", f"{Cause.LOGIN} (535 5.7.8)"),
        (Phase.RCPT, "550 5.2.0 No", "the recipient was refused (550 5.2.0)"),
        (Phase.RCPT, "450 4.2.0 No", "the recipient was put off (450 4.2.0)"),
        (Phase.FINAL_DOT, "554 No", "the mail was refused (554)"),
        (Phase.GREETING, "450 No", "the connection was put off (450)"),
    ],
)
def test_a_reason_is_words_and_the_codes(phase: Phase, said: str, words: str) -> None:
    assert reason(phase, reply(said)) == words


@pytest.mark.parametrize(
    "address", ["<spam@example.com>", "no-such-user@example.com", "<relaying-denied@example.com>:", "<a greylist@x>"]
)
def test_the_words_in_an_address_mean_nothing(address: str) -> None:
    assert recognise(Phase.RCPT, reply(f"450 4.2.0 {address} No")) is None


@pytest.mark.parametrize(
    ("enhanced", "text", "quoted"),
    [
        ("5.1.1", "5.1.1 No such user", "5.1.1 No such user"),
        ("5.1.1", "No such user", "5.1.1 No such user"),
        ("5.7.1", "5.7.1 Your mail\n5.7.1   looks like\r\n5.7.1 spam", "5.7.1 Your mail looks like spam"),
        ("", "No\0such\x1b[31muser\u202e\ud800", "No such [31muser"),
        ("", "", ""),
        ("5.1.1", "5.1.1", "5.1.1"),
        ("", "x" * 10_000, "x" * 500),
    ],
)
def test_what_a_server_says_is_quoted_in_one_line(enhanced: str, text: str, quoted: str) -> None:
    assert quote(Reply(code=550, enhanced=enhanced, text=text)) == quoted


@pytest.mark.parametrize("text", ["x", "<", "a@", "sender ", "1 s, ", "relay size user ip ", "(", "550 5.1.1\n"])
def test_a_long_reply_takes_no_longer_to_understand(text: str) -> None:
    """A hundred times as long, a pattern that looks back from everywhere takes ten thousand times as long."""
    long = Reply(code=550, text=text * 100_000)
    begun = time.process_time()
    reason(Phase.RCPT, long)
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
    """No address, nothing of the server's text, and short enough for its column."""
    said = Reply.parse(code, text)
    words = reason(phase, said)
    fixed = {*Cause, *(f"the {what} was {done}" for what in WHAT for done in ("refused", "put off"))}
    assert words.removesuffix(f" ({said.short})") in fixed
    assert "@" not in words
    assert len(words) <= 255
    assert len(quote(said)) <= 500
    assert quote(said).isprintable()


WHAT = ("connection", "sender", "recipient", "mail")
