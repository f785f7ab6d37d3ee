"""The effect of an outcome on the recipients."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from email_integration.models import Status
from email_integration.outcomes import settlement
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Accepted, Deferred, Failed, InDoubt, Outcome
from email_integration.smtp import Reply

KIM, LEE, SAM = "kim@example.com", "lee@example.com", "sam@example.com"
NO = Reply(code=550, enhanced="5.1.1", text=f"5.1.1 <{KIM}>\nunknown\0")
LATER = Reply(code=450, enhanced="4.2.0", text="4.2.0 Greylisted")
UNKNOWN = "the server says the mailbox does not exist (550 5.1.1)"
GREYLISTED = "the server asks us to try again later: greylisting (450 4.2.0)"


def pending(*addresses: str) -> list[dict[str, Any]]:
    return [{"address": address, "status": "pending"} for address in addresses]


def statuses(recipients: list[dict[str, Any]]) -> str:
    return " ".join(item["status"] for item in recipients)


def test_each_recipient_is_settled_on_its_own() -> None:
    outcome = Accepted(code=250, accepted=(KIM,), refused={LEE: NO, SAM: LATER})
    first = settlement.settle(pending(KIM, LEE, SAM), outcome)
    assert first == [
        {"address": KIM, "status": "accepted", "code": 250},
        {
            "address": LEE,
            "status": "failed",
            "code": 550,
            "reply": f"5.1.1 <{KIM}> unknown",
            "cause": "no_mailbox",
            "reason": UNKNOWN,
        },
        {
            "address": SAM,
            "status": "pending",
            "code": 450,
            "reply": "4.2.0 Greylisted",
            "cause": "greylisted",
            "reason": GREYLISTED,
        },
    ]
    assert settlement.judge(first, outcome) == settlement.Verdict(
        status=None, code=450, cause="greylisted", reason="1 of 3 recipients were deferred"
    )
    second = Accepted(code=250, accepted=(SAM,), refused={})
    last = settlement.settle(first, second)
    assert statuses(last) == "accepted failed accepted"
    assert settlement.judge(last, second) == settlement.Verdict(
        status=Status.ACCEPTED, code=250, cause="", reason="accepted by the server for 2 of 3 recipients"
    )


def test_a_delivery_is_accepted_even_if_its_last_attempt_failed() -> None:
    """Its reason and code are those of the acceptance, not 'refused' with the code of the last attempt."""
    first = settlement.settle(pending(KIM, LEE), Accepted(code=250, accepted=(KIM,), refused={LEE: LATER}))
    failed = Failed(cause=Cause.REFUSED, code=550, reason="every recipient was refused (550)", refused={LEE: NO})
    verdict = settlement.judge(settlement.settle(first, failed), failed)
    assert verdict == settlement.Verdict(
        status=Status.ACCEPTED, code=250, cause="", reason="accepted by the server for 1 of 2 recipients"
    )


def test_a_failure_of_the_whole_mail_settles_everybody() -> None:
    failed = Failed(cause=Cause.REFUSED, code=554, reason="the mail was refused (554)", reply="Not this")
    recipients = settlement.settle(pending(KIM, LEE), failed)
    assert statuses(recipients) == "failed failed"
    said = {"code": 554, "reply": "Not this", "cause": "refused", "reason": "the mail was refused (554)"}
    assert recipients[0] == {"address": KIM, "status": "failed", **said}
    verdict = settlement.judge(recipients, failed)
    assert (verdict.status, verdict.cause) == (Status.FAILED, "refused")


def test_a_deferred_mail_loses_those_that_were_refused_for_good() -> None:
    recipients = settlement.settle(
        pending(KIM, LEE), Deferred(cause=Cause.PUT_OFF, reason="later", refused={KIM: NO, LEE: LATER})
    )
    assert statuses(recipients) == "failed pending"


def test_doubt_settles_no_recipient() -> None:
    assert settlement.settle(pending(KIM), InDoubt(cause=Cause.IN_DOUBT, reason="lost")) == pending(KIM)


def test_an_acceptance_wins_over_giving_up() -> None:
    given_up = settlement.give_up(pending(KIM, LEE), Cause.EXPIRED, "not accepted in time")
    assert given_up[0]["cause"] == "expired"
    assert statuses(given_up) == "failed failed"
    assert settlement.accepted(given_up) is None
    late = Accepted(code=250, accepted=(KIM,), refused={})
    assert statuses(settlement.settle(given_up, late)) == "accepted failed"


addresses = st.sampled_from([KIM, LEE, SAM])
refusals = st.dictionaries(addresses, st.sampled_from([NO, LATER]))
outcomes: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(
        lambda taken, refused: Accepted(
            code=250, accepted=tuple(taken), refused={k: v for k, v in refused.items() if k not in taken}
        ),
        st.sets(addresses, min_size=1),
        refusals,
    ),
    st.builds(lambda refused: Deferred(cause=Cause.PUT_OFF, reason="later", refused=refused), refusals),
    st.builds(lambda refused: Failed(cause=Cause.REFUSED, reason="never", refused=refused), refusals),
    st.just(InDoubt(cause=Cause.IN_DOUBT, reason="lost")),
)


@given(st.lists(outcomes, max_size=6))
def test_no_outcome_takes_back_an_acceptance_or_forgets_a_recipient(history: list[Outcome]) -> None:
    recipients = pending(KIM, LEE, SAM)
    for outcome in history:
        before, recipients = recipients, settlement.settle(recipients, outcome)
        assert [item["address"] for item in recipients] == [KIM, LEE, SAM]
        for old, new in zip(before, recipients, strict=True):
            assert old["status"] != "accepted" or new == old
        verdict = settlement.judge(recipients, outcome)
        assert (verdict.status is None) == ("pending" in statuses(recipients))
        assert (verdict.status is Status.ACCEPTED) == (
            "accepted" in statuses(recipients) and "pending" not in statuses(recipients)
        )
        assert settlement.settle(recipients, outcome) == recipients
