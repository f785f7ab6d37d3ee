"""Options for sending a mail: one list for all ways to submit a mail."""

from __future__ import annotations

import datetime as dt
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, TypeVar

from email_integration.addresses import NULL_SENDER, envelope_address, quoted
from email_integration.exceptions import InvalidMail, refusal
from email_integration.models import InDoubtPolicy, Priority
from email_integration.timezones import as_stored

F = TypeVar("F", bound=Callable[..., Any])


class MailKeywords(TypedDict, total=False):
    """The arguments of ``MailOptions``, for type checkers: functions take them as ``**options``."""

    priority: Priority | Literal["high", "normal", "bulk"]
    due_at: dt.datetime | None
    expires_at: dt.datetime | None
    envelope_sender: str | None
    in_doubt: InDoubtPolicy | Literal["resend", "hold"] | None


@dataclass(frozen=True, kw_only=True)
class MailOptions:
    """Options for sending a mail.

    - ``priority``: 'high', 'normal' or 'bulk'. Each priority can have its own queue and workers.
    - ``due_at``: the earliest time to send the mail. By default it is sent as soon as it is submitted.
    - ``expires_at``: the mail is not sent after this time. By default it is GIVE_UP_AFTER seconds after ``due_at``
      (five days, RFC 5321 §4.5.4.1).
    - ``envelope_sender``: the address that receives bounces. '<>' turns bounces off (RFC 5321 §4.5.5). By default it is
      the address in From.
    - ``in_doubt``: the action when the server may or may not have accepted the mail: 'resend' the same bytes, or 'hold'
      the mail for a person. By default it is the setting IN_DOUBT.

    A naive datetime is in Django's current time zone, or in TIME_ZONE with ``USE_TZ = False``. Raises ``InvalidMail``
    for an invalid value.
    """

    priority: Priority | Literal["high", "normal", "bulk"] = Priority.NORMAL
    due_at: dt.datetime | None = None
    expires_at: dt.datetime | None = None
    envelope_sender: str | None = field(default=None, repr=False)
    in_doubt: InDoubtPolicy | Literal["resend", "hold"] | None = None

    def __post_init__(self) -> None:
        """Check the values, and convert them to the types that the database stores."""
        if self.priority not in Priority.values:
            values = ", ".join(map(repr, Priority.values))
            raise InvalidMail(f"priority must be one of {values}, not {quoted(self.priority)}.")
        if self.in_doubt is not None and self.in_doubt not in InDoubtPolicy.values:
            raise InvalidMail(f"in_doubt must be 'resend' or 'hold', not {quoted(self.in_doubt)}.")
        stored = {name: checked_time(name, getattr(self, name)) for name in ("due_at", "expires_at")}
        for name, value in (*stored.items(), ("envelope_sender", _checked_sender(self.envelope_sender))):
            object.__setattr__(self, name, value)  # how a frozen dataclass sets a field


def with_options_listed(function: F) -> F:
    """Replace ``**options: Unpack[MailKeywords]`` in the signature of ``function`` by the named options.

    Celery then refuses any other keyword when the task is called.
    """
    signature = inspect.signature(function)
    others = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
    listed = [*others, *inspect.signature(MailOptions).parameters.values()]
    function.__signature__ = signature.replace(parameters=listed)  # type: ignore[attr-defined]  # what inspect reads
    return function


def checked_time(name: str, moment: dt.datetime | None) -> dt.datetime | None:
    """Return ``moment``, the value of the argument ``name``, as the database stores it. Raises ``InvalidMail``."""
    if moment is None:
        return None
    if not isinstance(moment, dt.datetime):
        raise InvalidMail(f"{name} must be a datetime, not {quoted(moment)}.")
    try:
        return as_stored(moment)
    except OverflowError:
        raise InvalidMail(f"{name} is out of range: {moment.date()}.") from None
    except Exception as error:  # the caller's tzinfo may raise anything
        raise refusal(f"{name} is not a valid datetime", error) from error


def _checked_sender(address: str | None) -> str | None:
    if address is None or address == NULL_SENDER:
        return address
    try:
        return envelope_address(address)
    except InvalidMail as error:
        raise InvalidMail(f"envelope_sender: {error}") from None
