"""The documented replies of providers are understood as the providers mean them."""

from __future__ import annotations

import pytest

from email_integration.outcomes.causes import ACCOUNT_WIDE, Cause
from email_integration.outcomes.classification import Deferred, Failed, classify, is_permanent
from email_integration.outcomes.recognition import recognise
from email_integration.smtp import Phase, Refused, Reply
from tests.provider_replies import ACCOUNT, FAILS, PAGE, PAGES, REPLIES, WAITS, Documented, page


def reply(row: Documented) -> Reply:
    return Reply.parse(int(row.wire[:3]), row.wire[4:])


@pytest.mark.parametrize("row", REPLIES, ids=lambda row: f"{row.provider}-{row.phase}-{row.reply[:60]}")
def test_a_documented_reply_is_understood(row: Documented) -> None:
    said = reply(row)
    assert recognise(row.phase, said) is row.cause
    outcome = classify(Refused(row.phase, "", said))
    if row.ends == FAILS:
        assert isinstance(outcome, Failed)
    else:
        assert isinstance(outcome, Deferred)
        assert outcome.for_everybody == (row.ends == ACCOUNT)
    assert outcome.cause == row.cause
    if row.phase is Phase.RCPT:
        assert is_permanent(said) == (row.ends == FAILS)


@pytest.mark.parametrize("row", [row for row in REPLIES if row.cause in ACCOUNT_WIDE], ids=lambda row: row.reply[:60])
@pytest.mark.parametrize("phase", Phase)
def test_what_is_documented_of_the_account_holds_wherever_it_is_said(phase: Phase, row: Documented) -> None:
    for own_sender in (True, False):
        outcome = classify(Refused(phase, "", reply(row)), own_sender=own_sender)
        assert isinstance(outcome, Deferred)
        assert (outcome.cause, outcome.relay_at_fault, outcome.for_everybody) == (row.cause, True, True)


@pytest.mark.parametrize(
    "row", [row for row in REPLIES if row.cause is Cause.SENDER_NOT_ALLOWED], ids=lambda row: row.reply[:60]
)
@pytest.mark.parametrize("phase", [phase for phase in Phase if not phase.before_mail])
def test_a_sender_that_the_account_may_not_use_is_a_matter_of_whose_it_is(phase: Phase, row: Documented) -> None:
    ours, its_own = (classify(Refused(phase, "", reply(row)), own_sender=own) for own in (True, False))
    assert isinstance(ours, Deferred)
    assert isinstance(its_own, Deferred)
    assert (ours.cause, ours.relay_at_fault, ours.for_everybody) == (Cause.CONFIG_SENDER, True, True)
    assert (its_own.cause, its_own.relay_at_fault, its_own.for_everybody) == (row.cause, False, False)


def test_every_row_has_a_page_and_stands_once() -> None:
    assert {name for row in REPLIES for name in row.pages.split()} == set(PAGES)
    assert all(row.pages and row.ends in (ACCOUNT, WAITS, FAILS) for row in REPLIES)
    assert len({(row.provider, row.reply) for row in REPLIES}) == len(REPLIES)


def test_the_page_in_the_docs_shows_the_same() -> None:
    """If it differs, run ``python -m tests.provider_replies``."""
    assert PAGE.read_text() == page()
