"""Causes: a word for programs and a sentence for people."""

from __future__ import annotations

import pickle
import re

import pytest

from email_integration.models import CircuitBreaker, Delivery, DeliveryAttempt
from email_integration.outcomes.causes import ABOUT_US, LONGEST, REFUSED_LOGIN, Cause, words_of


@pytest.mark.parametrize("cause", Cause)
def test_a_cause_has_a_stable_word_and_a_sentence(cause: Cause) -> None:
    """The word is the member's name, so a rename of one cannot change the other unnoticed."""
    assert cause.value == str(cause) == cause.name.lower()
    assert re.fullmatch(r"[a-z][a-z0-9_]*", cause.value)
    assert len(cause.value) <= LONGEST == 32
    assert 0 < len(cause.words) <= 200
    assert "@" not in cause.words
    assert cause.words == cause.words.strip(". ")
    assert words_of(cause.value) == cause.words


def test_no_two_causes_say_the_same() -> None:
    assert len({cause.words for cause in Cause}) == len(Cause)


@pytest.mark.parametrize("model", [Delivery, DeliveryAttempt, CircuitBreaker])
def test_a_column_takes_any_cause_and_none(model: type[Delivery]) -> None:
    """Workers of the previous version insert rows too: the database has a default."""
    field = model._meta.get_field("cause")
    assert field.max_length == LONGEST
    assert (field.get_default(), field.db_default, field.null) == ("", "", False)


def test_a_cause_that_is_not_known_stands_for_itself() -> None:
    """A worker of another version may have written it."""
    assert words_of("of_another_version") == "of_another_version"
    assert words_of("") == ""


def test_a_refused_login_is_never_the_mails_fault() -> None:
    assert REFUSED_LOGIN < ABOUT_US


@pytest.mark.parametrize("cause", Cause)
def test_a_cause_travels_between_processes(cause: Cause) -> None:
    assert pickle.loads(pickle.dumps(cause)) is cause
