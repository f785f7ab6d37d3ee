"""The labels of metrics: few values, whatever servers and administrators enter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from email_integration.metrics import labels
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Accepted, Deferred, Failed, InDoubt, Outcome, classify
from email_integration.smtp import CannotConnect, ConnectionLost, NotOffered, Phase, Refused, Reply

texts = st.text(max_size=80)
phases = st.sampled_from(Phase)


@given(phase=phases, code=st.integers(200, 599), text=texts)
def test_the_class_of_a_reply_is_one_of_few(phase: Phase, code: int, text: str) -> None:
    """In any phase and with any reply of the server."""
    outcome = classify(Refused(phase, "", Reply(code=code, text=text)))
    assert labels.reason(outcome) in labels.REASONS


@given(phase=st.none() | phases, code=st.none() | st.integers(200, 599), text=texts, cause=st.sampled_from(Cause))
def test_the_class_of_any_reason_is_its_cause(phase: Phase | None, code: int | None, text: str, cause: Cause) -> None:
    """The texts of the outcome do not matter."""
    outcomes: list[Outcome] = [
        Deferred(cause=cause, code=code, reason=text, phase=phase),
        Failed(cause=cause, code=code, reason=text, phase=phase),
        InDoubt(cause=cause, code=code, reason=text),
    ]
    for outcome in outcomes:
        assert labels.reason(outcome) == cause.value
        assert cause.value in labels.REASONS


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Accepted(code=250, accepted=("kim@example.com",), refused={}), "accepted"),
        (classify(Refused(Phase.AUTH, "", Reply(code=535, enhanced="5.7.8", text="no"))), "login"),
        (classify(Refused(Phase.RCPT, "", Reply(code=550, enhanced="5.1.1", text="no"))), "no_mailbox"),
        (classify(Refused(Phase.MAIL, "", Reply(code=550, enhanced="5.7.23", text="SPF"))), "unproven"),
        (classify(Refused(Phase.RCPT, "", Reply(code=599, text="no"))), "refused"),
        (classify(CannotConnect(Phase.CONNECT, "no answer")), "not_connected"),
        (classify(ConnectionLost(Phase.DATA, "gone")), "connection_lost"),
        (classify(ConnectionLost(Phase.FINAL_DOT, "gone")), "in_doubt"),
        (Deferred(cause=Cause.PAUSED, reason="sending is paused", relay_at_fault=True), "paused"),
        (classify(NotOffered(Phase.MAIL, "gone")), "no_smtputf8"),
    ],
)
def test_a_reason_is_known_by_its_cause(outcome: Outcome, expected: str) -> None:
    """The label is the word of the cause."""
    assert labels.reason(outcome) == expected


def test_so_many_configurations_and_no_more_have_a_name() -> None:
    """The first configurations keep their names; all later ones share one label."""
    names = labels.Names()
    given = [f"relay {number}" for number in range(3 * labels.CONFIGURATIONS)]
    shown = [names(name) for name in given]

    assert shown[: labels.CONFIGURATIONS] == given[: labels.CONFIGURATIONS]
    assert set(shown[labels.CONFIGURATIONS :]) == {labels.OTHER}
    assert [names(name) for name in given] == shown


def test_no_configuration_has_a_word() -> None:
    """An empty label would equal a missing label."""
    assert labels.Names()("") == "none"


@given(name=texts)
def test_a_priority_is_one_of_ours(name: str) -> None:
    """The row may contain any text."""
    assert labels.priority(name) in labels.PRIORITIES
