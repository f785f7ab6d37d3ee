"""Erase what is known of a person by their mail address.

A finished mail loses the address, what servers said of it, and its content, which may say more. A mail on its way is
not sent to that address any more; it goes on to the others, and its content goes when it is finished.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction
from django.db.models import Q

from email_integration.addresses import addresses_in, mail_address, quoted
from email_integration.async_safety import sync_only
from email_integration.exceptions import InvalidMail
from email_integration.ledger import rows, transitions
from email_integration.message import content
from email_integration.models import FINAL, Delivery, DeliveryAttempt
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.settlement import ERASED, is_pending

#: How many rows are looked at in one query.
BATCH = 500


@dataclass(frozen=True, kw_only=True)
class Erased:
    """What was erased, or would be."""

    #: Finished deliveries that name the person no longer.
    deliveries: int
    #: Mails on their way of which nothing is sent to the person any more.
    stopped: int
    contents: int
    #: Attempts whose reply named the person, or may have.
    replies: int
    #: Ids of deliveries that still name the person: being sent at this moment, or on their way in the person's name.
    left: tuple[str, ...]


@sync_only("erase_recipient()", instead="sync_to_async(erase_recipient)()")
def erase_recipient(address: str, *, dry_run: bool = False) -> Erased:
    """Erase all that deliveries and attempts know of the person with this mail address, in upper or lower case.

    What is ``left`` has to be erased by another run, when it is finished. Raises ``InvalidMail`` when it is none.
    """
    person = mail_address(address).lower()
    if "@" not in person:  # a mere word, which texts have in other meanings
        raise InvalidMail(f"{quoted(address)} is not the address of a person: it has no domain.")
    return _Run(_Person(person), dry_run=dry_run).run()


@dataclass(frozen=True)
class _Person:
    """``address`` is as in an envelope, in lower case."""

    address: str = field(repr=False)

    @functools.cached_property
    def spellings(self) -> tuple[str, ...]:
        """The ways in which a text may have the address: with its domain in ASCII, and as it is typed."""
        local, _, domain = self.address.rpartition("@")
        try:
            typed = domain.encode().decode("idna")
        except UnicodeError:
            typed = domain
        return tuple({self.address, f"{local}@{typed}"})

    @functools.cached_property
    def _pattern(self) -> re.Pattern[str]:
        # Not within another address: 'kim@example.com' is neither in 'joakim@example.com' nor in 'kim@example.com.br'.
        spellings = "|".join(map(re.escape, self.spellings))
        before, after = r"(?<![\w.!#$%&*+/?^`{|}~-])(?<!\w')", r"(?![\w-]|\.\w)"
        return re.compile(f"{before}(?:{spellings}){after}", re.IGNORECASE)

    def has(self, address: object) -> bool:
        """Whether it is theirs."""
        local = self.address.rpartition("@")[0]
        if not isinstance(address, str) or local not in address.lower():
            return False
        try:
            return mail_address(address).lower() == self.address
        except InvalidMail:
            return False

    def is_in(self, text: str) -> bool:
        """Whether ``text`` has the address somewhere."""
        return self._pattern.search(text) is not None

    def taken_out_of(self, found: Any) -> Any:
        """What was ``found``, any JSON, without the address in its texts."""
        if isinstance(found, str):
            return self._pattern.sub(ERASED, found)
        if isinstance(found, list):
            return [self.taken_out_of(one) for one in found]
        if isinstance(found, dict):
            return {name: self.taken_out_of(one) for name, one in found.items()}
        return found


# -- what changes in a delivery -------------------------------------------------------------------------------------


def _changes(delivery: Delivery, person: _Person) -> dict[str, Any]:
    """The columns that name ``person``, as they are without."""
    named = any(person.has(address) for address in addresses_in(delivery.from_header))
    without = {
        "recipients": _recipients(delivery.recipients, person),
        "redirected_to": ", ".join(ERASED if person.has(one) else one for one in delivery.redirected_to.split(", ")),
        "from_header": ERASED if named else delivery.from_header,
        "sender": ERASED if person.has(delivery.sender) else delivery.sender,
    }
    changes = {name: value for name, value in without.items() if value != getattr(delivery, name)}
    key = (delivery.idempotency_key or "").lower()
    # In a mail of theirs 'welcome-kim@example.com' is kim; elsewhere it may be somebody of that name.
    if person.is_in(key) or (changes and any(spelling in key for spelling in person.spellings)):
        changes["idempotency_key"] = None
    return changes


def _recipients(found: Any, person: _Person) -> Any:
    if not isinstance(found, list):  # what somebody made of it in the database
        return person.taken_out_of(found)
    return [_recipient(item, person) for item in found]


def _recipient(item: Any, person: _Person) -> Any:
    if not isinstance(item, dict):
        return person.taken_out_of(item)
    if not person.has(item.get("address")):
        # A server may have named them in what it said of another.
        return {name: value if name == "address" else person.taken_out_of(value) for name, value in item.items()}
    if item.get("status") == "pending":
        return {"address": ERASED, "status": "failed", "reply": ERASED, "cause": Cause.ERASED.value, "reason": ERASED}
    kept = ("status", "code", "cause", "reason")
    return {"address": ERASED, **{name: item[name] for name in kept if name in item}}


# -- one run --------------------------------------------------------------------------------------------------------


class _Run:
    """Finds and erases, and counts meanwhile."""

    def __init__(self, person: _Person, *, dry_run: bool) -> None:
        self._person = person
        self._dry_run = dry_run
        self._count: Counter[str] = Counter()
        self._left: list[str] = []
        # The ids of deliveries to the person, in whose attempts all replies go.
        self._to_them: set[str] = set()

    def run(self) -> Erased:
        for pk in self._named():
            while not self._erase(pk):
                pass  # somebody has moved it since it was loaded
        self._erase_replies_that_name_them()
        return Erased(
            deliveries=self._count["deliveries"],
            stopped=self._count["stopped"],
            contents=self._count["contents"],
            replies=self._count["replies"],
            left=tuple(self._left),
        )

    def _named(self) -> Iterator[str]:
        """The ids of deliveries that name the person, whatever their contents do.

        All rows are read, and compared here: databases do not know which addresses are the same, nor is there one way
        to search JSON.
        """
        columns = ("pk", "recipients", "redirected_to", "from_header", "sender", "idempotency_key")
        rows = Delivery.objects.order_by("pk").only(*columns)
        last = ""
        while batch := list(rows.filter(pk__gt=last)[:BATCH]):
            yield from (delivery.pk for delivery in batch if _changes(delivery, self._person))
            last = batch[-1].pk

    def _erase(self, pk: str) -> bool:
        """Erase what one delivery knows; False when that has to be tried again."""
        delivery = rows.load(pk)
        if delivery is None or not (changes := _changes(delivery, self._person)):
            return True
        if delivery.batch:
            if not self._dry_run:
                self._stop(delivery, changes)
            self._left.append(pk)
            return True
        was_finished = delivery.status in FINAL
        readable = rows.is_readable(delivery)
        if not was_finished and not readable and not self._dry_run:
            transitions.set_aside(delivery, "its recipients cannot be read")
            return False
        to_them = not readable or any(self._person.has(item["address"]) for item in delivery.recipients)
        recipients = changes.pop("recipients", delivery.recipients)
        ends = was_finished or not readable or not is_pending(recipients)
        drops = ends and (to_them or not changes.keys().isdisjoint(("from_header", "sender")))
        keeps_going = {name: changes[name] for name in changes.keys() & {"redirected_to"}}
        waits = not ends and changes != keeps_going
        if not ends:
            changes = keeps_going
        elif drops:
            # What followed has been given what it was given; the same may be among it.
            changes |= {**content.NONE, **({"options": ""} if delivery.is_settled else {})}
        count = Counter(
            deliveries=int(ends),
            stopped=int(to_them and not was_finished),
            contents=int(drops and delivery.has_content),
        )
        with transaction.atomic(using=rows.database()):
            if not self._dry_run and not transitions.erase(delivery, recipients, **changes):
                return False  # it was moved since
            if to_them:
                count["replies"] = self._erase_replies(pk)
        self._count += count
        if waits:
            self._left.append(pk)
        return True

    def _stop(self, delivery: Delivery, changes: dict[str, Any]) -> None:
        """Have what is being sent end before the server takes it, where nobody else is to get it."""
        if rows.is_readable(delivery):
            transitions.erase(delivery, changes.get("recipients", delivery.recipients))

    def _erase_replies(self, pk: str) -> int:
        """Those to a mail to the person: they may have a name in them, or the address in other words."""
        self._to_them.add(pk)
        replies = DeliveryAttempt.objects.filter(delivery_id=pk).exclude(reply__in=("", ERASED))
        return replies.count() if self._dry_run else replies.update(reply=ERASED)

    def _erase_replies_that_name_them(self) -> None:
        """Those to mails to others: a server may say who reads somebody's mail now."""
        named = Q()
        for spelling in self._person.spellings:
            named |= Q(reply__icontains=spelling)
        rows = DeliveryAttempt.objects
        last = 0
        while batch := list(rows.filter(named, pk__gt=last).order_by("pk").only("delivery_id", "reply")[:BATCH]):
            for attempt in batch:
                reply = self._person.taken_out_of(attempt.reply)
                if reply != attempt.reply and attempt.delivery_id not in self._to_them:
                    self._count["replies"] += 1
                    if not self._dry_run:
                        rows.filter(pk=attempt.pk).update(reply=reply)
            last = batch[-1].pk
