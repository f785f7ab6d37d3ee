"""The result of the demo: the counted mails, the table of servers and recipients, and the problems."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime

PRIMARY, BACKUP = "Primary Mail Server", "Backup SMTP Server"
PHASES = ("before the switch", "after the switch", "during the outage")
EACH = 20
WORKER_PROCESSES = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoMail:
    """The database's record of one mail at the end."""

    message_id: str
    phase: str
    is_accepted: bool
    #: Start and end of the attempt that finished the mail; None if there was none.
    begun: datetime | None
    ended: datetime | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Switch:
    """When the save that switched the active configuration was called, and when it returned."""

    called: datetime
    returned: datetime


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """The final contents of the Maildirs and the database, and conclusions from them."""

    mails: Sequence[DemoMail]
    #: For each server, the Message-IDs of the messages it accepted, one for each copy.
    received: dict[str, list[str]]
    switch: Switch
    #: For each worker process, the start of its first attempt through the new server.
    seen: dict[str, datetime]

    @property
    def accepted(self) -> int:
        """Return how many mails a server has and the database records as accepted."""
        arrived = {message_id for copies in self.received.values() for message_id in copies}
        return sum(mail.is_accepted and mail.message_id in arrived for mail in self.mails)

    @property
    def lost(self) -> int:
        """Return how many mails no server has."""
        arrived = {message_id for copies in self.received.values() for message_id in copies}
        return sum(mail.message_id not in arrived for mail in self.mails)

    @property
    def duplicated(self) -> int:
        """Return how many copies there are beyond the first."""
        copies = collections.Counter(message_id for copies in self.received.values() for message_id in copies)
        return sum(count - 1 for count in copies.values())

    @property
    def misplaced(self) -> list[DemoMail]:
        """Return the mails at the wrong server.

        An attempt that began after the save returned must use the new server. An attempt that ended before the save was
        called must use the old one. Other attempts may use either.
        """
        return [
            mail
            for mail in self.mails
            if (mail.message_id in self.received[PRIMARY] and not (mail.begun and mail.begun <= self.switch.returned))
            or (mail.message_id in self.received[PRIMARY] and mail.phase != PHASES[0])
            or (mail.message_id in self.received[BACKUP] and mail.ended and mail.ended < self.switch.called)
        ]

    @property
    def milliseconds(self) -> int:
        """Return the milliseconds from the end of the save until the last worker process used the new one."""
        return max(0, round((max(self.seen.values()) - self.switch.returned).total_seconds() * 1000))

    def problems(self) -> list[str]:
        """Return the problems, in words."""
        total = len(PHASES) * EACH
        found = [
            (len(self.mails) != total, f"{len(self.mails)} of {total} submitted"),
            (self.accepted != total, f"{self.accepted} of {total} accepted"),
            (self.lost > 0, f"{self.lost} lost"),
            (self.duplicated > 0, f"{self.duplicated} duplicated"),
            (bool(self.misplaced), f"{len(self.misplaced)} at the wrong server"),
            (
                len(self.seen) != WORKER_PROCESSES,
                f"{len(self.seen)} of {WORKER_PROCESSES} worker processes used the new server",
            ),
        ]
        return [words for is_wrong, words in found if is_wrong]

    def table(self) -> str:
        """Return the table of the mails of each server."""
        phase_of = {mail.message_id: mail.phase for mail in self.mails}
        width = max(len(name) for name in self.received)
        lines = [" " * width + "".join(f"  {phase:>17}" for phase in (*PHASES, "all"))]
        for name, copies in self.received.items():
            counts = collections.Counter(phase_of.get(message_id, "unknown") for message_id in copies)
            numbers = [*(counts[phase] for phase in PHASES), len(copies)]
            lines.append(f"{name:<{width}}" + "".join(f"  {number:>17}" for number in numbers))
        return "\n".join(lines)


def collect(phase_of: Mapping[str, str], *, received: dict[str, list[str]], switch: Switch) -> Evidence:
    """Combine the database with the received messages. ``phase_of`` has the phase of each mail's id."""
    # Imported here, because Django is set up by then.
    from email_integration.models import Delivery, DeliveryAttempt, Status

    begun: dict[str, tuple[datetime, datetime]] = {}
    seen: dict[str, datetime] = {}
    for one in DeliveryAttempt.objects.order_by("started_at"):
        begun[one.delivery_id] = one.started_at, one.finished_at
        if one.smtp_config == BACKUP:
            seen.setdefault(one.worker, one.started_at)
    mails = [
        DemoMail(
            message_id=delivery.message_id,
            phase=phase_of[delivery.pk],
            is_accepted=delivery.status == Status.ACCEPTED,
            begun=begun[delivery.pk][0] if delivery.pk in begun else None,
            ended=begun[delivery.pk][1] if delivery.pk in begun else None,
        )
        for delivery in Delivery.objects.all()
    ]
    return Evidence(mails=mails, received=received, switch=switch, seen=seen)
