"""The options of a mail: one list of them, and the allowed values of each."""

from __future__ import annotations

import dataclasses
import datetime as dt
import inspect
import typing
from typing import Any, Literal

import pytest
from django.utils import timezone

from email_integration import MailOptions
from email_integration.exceptions import InvalidMail
from email_integration.message.options import MailKeywords
from email_integration.models import Priority

NOON = dt.datetime(2040, 1, 1, 12, 0)  # noqa: DTZ001  # naive on purpose
NOON_UTC = NOON.replace(tzinfo=dt.UTC)


def test_type_checkers_know_the_same_options_as_there_are() -> None:
    fields = {field.name: field.type for field in dataclasses.fields(MailOptions)}
    assert typing.get_args(typing.get_type_hints(MailKeywords)["priority"])[1:] == (Literal[*Priority.values],)
    assert {name: hint.__forward_arg__ for name, hint in MailKeywords.__annotations__.items()} == fields
    assert list(inspect.signature(MailOptions).parameters) == list(MailKeywords.__annotations__)
    assert not MailKeywords.__required_keys__
    assert typing.get_type_hints(MailKeywords)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"priority": "urgent"}, "priority must be one of 'high', 'normal', 'bulk', not 'urgent'"),
        ({"priority": None}, "priority must be"),
        ({"in_doubt": "wait"}, "in_doubt must be 'resend' or 'hold', not 'wait'"),
        ({"due_at": 7}, "due_at must be a datetime, not 7"),
        ({"expires_at": "2040-01-01"}, "expires_at must be a datetime"),
        ({"due_at": dt.date(2040, 1, 1)}, "due_at must be a datetime"),
        ({"due_at": dt.datetime(9999, 12, 31)}, "due_at is out of range: 9999-12-31"),  # noqa: DTZ001
        ({"expires_at": dt.datetime.max.replace(tzinfo=dt.UTC)}, "expires_at is out of range: 9999-12-31"),
        ({"expires_at": dt.datetime(1, 1, 1)}, "expires_at is out of range: 0001-01-01"),  # noqa: DTZ001
        ({"envelope_sender": "nonsense"}, "envelope_sender: "),
        ({"envelope_sender": 7}, "envelope_sender: "),
    ],
)
def test_a_wrong_option_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidMail, match=f"^{said}"):
        MailOptions(**given)


def test_an_address_is_not_shown() -> None:
    assert "bounces" not in repr(MailOptions(envelope_sender="bounces@example.com"))


def test_a_naive_time_is_in_the_current_time_zone(settings: Any) -> None:
    settings.USE_TZ, settings.TIME_ZONE = True, "UTC"
    with timezone.override("Africa/Harare"):
        assert MailOptions(due_at=NOON).due_at == dt.datetime(2040, 1, 1, 10, 0, tzinfo=dt.UTC)
    assert MailOptions(expires_at=NOON_UTC).expires_at == NOON_UTC


def test_without_use_tz_times_are_naive_and_in_djangos_time_zone(settings: Any) -> None:
    settings.USE_TZ, settings.TIME_ZONE = False, "Asia/Kathmandu"
    assert MailOptions(due_at=NOON).due_at == NOON
    assert MailOptions(expires_at=NOON_UTC).expires_at == NOON + dt.timedelta(hours=5, minutes=45)
    with pytest.raises(InvalidMail, match=r"^due_at is out of range: 9999-12-31"):
        MailOptions(due_at=dt.datetime(9999, 12, 31, 23, 0, tzinfo=dt.UTC))
