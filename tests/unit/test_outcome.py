"""What each failure means, and when to try again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from email_integration.delivery.outcome import (
    Deferred,
    Failed,
    InDoubt,
    Outcome,
    classify,
    classify_recipients,
    is_permanent,
)
from email_integration.delivery.retry import backoff
from email_integration.smtp import (
    CannotConnect,
    ConnectionLost,
    NotOffered,
    Phase,
    Refused,
    Reply,
    SMTPFailure,
    TLSFailed,
)

ADDRESS = "kim@example.com"

BEFORE_MAIL = [phase for phase in Phase if phase.before_mail]
FROM_MAIL_ON = [phase for phase in Phase if not phase.before_mail]


def refused(phase: Phase, said: str, **how: bool) -> Outcome:
    return classify(Refused(phase, "", Reply.parse(int(said[:3]), said[4:])), **how)


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
    assert "user name and password" in outcome.reason


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
    assert (outcome.code, outcome.relay_at_fault) == (int(said[:3]), False)


@pytest.mark.parametrize("phase", FROM_MAIL_ON)
@pytest.mark.parametrize(
    "said", ["550 5.1.1 No such user", "552 5.3.4 Too big", "553 5.1.8 Bad sender", "554 Spam", "500 What?"]
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
    """RFC 5321 §4.5.3.1.10."""
    assert isinstance(refused(Phase.RCPT, "552 Too many recipients"), Deferred)
    assert isinstance(refused(Phase.RCPT, "552 5.2.2 Mailbox full"), Failed)


@pytest.mark.parametrize("phase", [Phase.MAIL, Phase.RCPT, Phase.DATA, Phase.CONTENT])
def test_a_connection_lost_before_the_final_dot_puts_off(phase: Phase) -> None:
    outcome = classify(ConnectionLost(phase, "the connection was lost"))
    assert isinstance(outcome, Deferred)
    assert not outcome.relay_at_fault


def test_a_connection_lost_after_the_final_dot_is_in_doubt() -> None:
    outcome = classify(ConnectionLost(Phase.FINAL_DOT, "the server did not answer in time"))
    assert outcome == InDoubt(reason="the server did not answer in time after the final dot")


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("450 4.2.0 Greylisted, try again in 300 seconds", 300),
        ("451 4.7.1 come back after 5 minutes", 300),
        ("450 retry in 20s", 20),
        ("432 4.3.2 Concurrent connections limit", None),
        ("450 4.2.0 in 3 ways", None),
        ("421 4.7.0 try again in 60 secs", 60),
    ],
)
def test_a_hint_when_to_come_back_is_read(said: str, seconds: float | None) -> None:
    outcome = refused(Phase.RCPT, said)
    assert isinstance(outcome, Deferred)
    assert outcome.retry_in == seconds


@pytest.mark.parametrize(
    "said", ["553 5.7.1 Sender address rejected: not owned by user", "550 5.1.8 No such domain", "501 Syntax"]
)
def test_a_refused_sender_of_the_configuration_burns_no_mail(said: str) -> None:
    outcome = refused(Phase.MAIL, said, own_sender=True)
    assert at_fault(outcome)
    assert "from_email" in outcome.reason
    assert isinstance(refused(Phase.MAIL, said), Failed)


@pytest.mark.parametrize("said", ["552 5.3.4 Too big", "550 5.3.4 Too big"])
def test_a_mail_that_is_too_big_fails_whoever_sends_it(said: str) -> None:
    assert isinstance(refused(Phase.MAIL, said, own_sender=True), Failed)


@pytest.mark.parametrize(
    ("said", "kind", "code"),
    [
        (["550 5.1.1 No", "550 5.1.1 No"], Failed, 550),
        (["550 5.1.1 No", "450 4.2.0 Later"], Deferred, 450),
        (["450 4.2.0 Later", "452 4.2.2 Full"], Deferred, 450),
        (["550 5.1.1 No", "550 5.7.1 Relaying denied"], Deferred, 550),
    ],
)
def test_when_everybody_is_refused_the_best_hope_decides(said: list[str], kind: type[Outcome], code: int) -> None:
    replies = {f"{number}@example.com": Reply.parse(int(one[:3]), one[4:]) for number, one in enumerate(said)}
    outcome = classify_recipients(replies)
    assert (type(outcome), outcome.code) == (kind, code)
    assert isinstance(outcome, Failed | Deferred)
    assert outcome.refused == replies


replies = st.builds(
    lambda code, enhanced, text: Reply.parse(code, f"{enhanced} {text} <{ADDRESS}>"),
    st.integers(400, 599),
    st.sampled_from(["", "4.2.0", "5.1.1", "5.7.30"]),
    st.text(max_size=40),
)


@given(replies, st.sampled_from(Phase), st.booleans())
def test_no_reply_of_a_server_gets_into_the_reason_or_ends_without_an_outcome(
    reply: Reply, phase: Phase, own_sender: bool
) -> None:
    outcome = classify(Refused(phase, "", reply), own_sender=own_sender)
    assert isinstance(outcome, Deferred | Failed)
    assert ADDRESS not in f"{outcome!r} {outcome.reason}"
    assert len(outcome.reason) <= 255
    assert not (reply.code < 500 and isinstance(outcome, Failed))


waits = st.floats(0.001, 10_000)


@given(st.integers(1, 10**9), waits, waits, st.floats(0, 1))
def test_backoff_is_bounded(attempts: int, first: float, longest: float, chance: float) -> None:
    assert 0 <= backoff(attempts, first=first, longest=longest, chance=chance) <= longest


@given(st.integers(1, 60), waits, waits, st.floats(0, 1))
def test_backoff_never_shrinks_with_attempts(attempts: int, first: float, longest: float, chance: float) -> None:
    def wait(number: int) -> float:
        return backoff(number, first=first, longest=longest, chance=chance)

    assert wait(attempts) <= wait(attempts + 1)


def test_backoff_doubles_and_is_fully_jittered() -> None:
    assert [backoff(n, first=5, longest=900, chance=1) for n in (1, 2, 3, 4, 9, 99)] == [5, 10, 20, 40, 900, 900]
    assert backoff(9, first=5, longest=900, chance=0) == 0


@given(st.floats(0, 10**6), st.floats(0, 1))
def test_a_hint_is_honoured_up_to_the_longest_wait(hint: float, chance: float) -> None:
    wait = backoff(1, first=5, longest=900, chance=chance, hint=hint)
    assert min(hint, 900) <= wait <= min(hint, 900) * 1.1
