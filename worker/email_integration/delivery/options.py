"""How a mail is to be sent: one list of options for every way to submit one."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TypedDict

from email_integration.exceptions import InvalidMail
from email_integration.models import InDoubtPolicy, Lane
from email_integration.timezones import as_stored


class MailKeywords(TypedDict, total=False):
    """The arguments of ``MailOptions``, for the type checker: functions take them as ``**options``."""

    priority: str
    due_at: dt.datetime | None
    expires_at: dt.datetime | None
    envelope_sender: str | None
    in_doubt: str | None


@dataclass(frozen=True, kw_only=True)
class MailOptions:
    """How a mail is to be sent. Raises ``InvalidMail`` for a value that cannot be.

    ``priority`` is 'high', 'normal' or 'bulk': each may have a queue, and workers, of its own. The mail is sent from
    ``due_at`` on, by default as soon as it is submitted, and no more after ``expires_at``, by default GIVE_UP_AFTER
    seconds later (five days, RFC 5321 §4.5.4.1). ``envelope_sender`` gets the bounces, '<>' for nobody (RFC 5321
    §4.5.5); by default it is the address in From. ``in_doubt`` says what happens to a mail that the server may or may
    not have: 'resend' the same bytes, or 'hold' them for a person; by default it is the setting IN_DOUBT.

    A naive datetime is in Django's current time zone.
    """

    priority: str = Lane.NORMAL
    due_at: dt.datetime | None = None
    expires_at: dt.datetime | None = None
    envelope_sender: str | None = field(default=None, repr=False)
    in_doubt: str | None = None

    def __post_init__(self) -> None:
        """Check the values, and turn the times into what the database stores."""
        if self.priority not in Lane.values:
            raise InvalidMail(f"priority must be {', '.join(map(repr, Lane.values))}, not {self.priority!r}.")
        if self.in_doubt is not None and self.in_doubt not in InDoubtPolicy.values:
            raise InvalidMail(f"in_doubt must be 'resend' or 'hold', not {self.in_doubt!r}.")
        for name in ("due_at", "expires_at"):
            moment = getattr(self, name)
            if moment is None:
                continue
            if not isinstance(moment, dt.datetime):
                raise InvalidMail(f"{name} must be a datetime, not {moment!r}.")
            try:
                object.__setattr__(self, name, as_stored(moment))  # what a frozen dataclass has for this
            except OverflowError:
                raise InvalidMail(f"{name} is too far away: {moment:%Y-%m-%d}.") from None
