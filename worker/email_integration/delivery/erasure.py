"""Erase all data about a person by the mail address.

A finished mail loses the address, the server replies about it, and its content, which may contain more about the
person. An unfinished mail is no longer sent to that address. It is still sent to the other recipients, and its content
is removed when it is finished.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus

from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from email_integration.addresses import addresses_in, mail_address, quoted
from email_integration.async_safety import sync_only
from email_integration.exceptions import InvalidMail
from email_integration.ledger import rows, transitions
from email_integration.message import content
from email_integration.models import FINAL, BulkAction, Delivery, DeliveryAttempt
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.settlement import ERASED, is_pending

#: Rows that one query reads.
BATCH = 500


@dataclass(frozen=True, kw_only=True)
class Erased:
    """The counts of erased data, or in a dry run of data that would be erased."""

    #: Finished deliveries that no longer name the person.
    deliveries: int
    #: Unfinished mails that are no longer sent to the person.
    stopped: int
    contents: int
    #: Attempts whose reply named the person, or may have.
    replies: int
    #: Ids of deliveries that still name the person: they are being sent now, or are unfinished and name the person as
    #: the sender or elsewhere.
    left: tuple[str, ...]


@sync_only("erase_recipient()", instead="sync_to_async(erase_recipient)()")
def erase_recipient(address: str, *, dry_run: bool = False) -> Erased:
    """Erase all data of deliveries and attempts about the person with this mail address, in upper or lower case.

    With ``dry_run`` nothing is changed. Another run must erase the deliveries in ``left`` after they are finished.
    Raises ``InvalidMail`` when ``address`` is not a mail address.
    """
    person = mail_address(address).lower()
    if "@" not in person:  # a mere word, which has other meanings in texts
        raise InvalidMail(f"{quoted(address)} is not the address of a person: it has no domain.")
    return _Run(_Person(person), dry_run=dry_run).run()


@dataclass(frozen=True)
class _Person:
    """A person. ``address`` has the form of an envelope address, in lower case."""

    address: str = field(repr=False)

    @functools.cached_property
    def spellings(self) -> tuple[str, ...]:
        """The spellings that a text may contain: with the domain in ASCII, and as people type it."""
        local, _, domain = self.address.rpartition("@")
        try:
            typed = domain.encode().decode("idna")
        except UnicodeError:
            typed = domain
        return tuple({self.address, f"{local}@{typed}"})

    @functools.cached_property
    def _pattern(self) -> re.Pattern[str]:
        # Not inside another address: 'kim@example.com' is neither in 'joakim@example.com' nor in 'kim@example.com.br'.
        spellings = "|".join(map(re.escape, self.spellings))
        before, after = r"(?<![\w.!#$%&*+/?^`{|}~-])(?<!\w')", r"(?![\w-]|\.\w)"
        return re.compile(f"{before}(?:{spellings}){after}", re.IGNORECASE)

    def has(self, address: object) -> bool:
        """Return whether ``address`` belongs to this person."""
        local = self.address.rpartition("@")[0]
        if not isinstance(address, str) or local not in address.lower():
            return False
        try:
            return mail_address(address).lower() == self.address
        except InvalidMail:
            return False

    def is_in(self, text: str) -> bool:
        """Return whether ``text`` contains the address."""
        return self._pattern.search(text) is not None

    def taken_out_of(self, found: Any) -> Any:
        """Return a JSON value without the address in its texts."""
        if isinstance(found, str):
            return self._pattern.sub(ERASED, found)
        if isinstance(found, list):
            return [self.taken_out_of(one) for one in found]
        if isinstance(found, dict):
            return {name: self.taken_out_of(one) for name, one in found.items()}
        return found


# -- what changes in a delivery -------------------------------------------------------------------------------------


def _changes(delivery: Delivery, person: _Person) -> dict[str, Any]:
    """Return the columns that name ``person``, with the values after the erasure."""
    named = any(person.has(address) for address in addresses_in(delivery.from_header))
    without = {
        "recipients": _recipients(delivery.recipients, person),
        "redirected_to": ", ".join(ERASED if person.has(one) else one for one in delivery.redirected_to.split(", ")),
        "from_header": ERASED if named else delivery.from_header,
        "sender": ERASED if person.has(delivery.sender) else delivery.sender,
    }
    changes = {name: value for name, value in without.items() if value != getattr(delivery, name)}
    key = (delivery.idempotency_key or "").lower()
    # In a mail to this person, 'welcome-kim@example.com' refers to kim; in other mails it may be another person's
    # address.
    if person.is_in(key) or (changes and any(spelling in key for spelling in person.spellings)):
        changes["idempotency_key"] = None
    return changes


def _recipients(found: Any, person: _Person) -> Any:
    if not isinstance(found, list):  # the row was damaged in the database
        return person.taken_out_of(found)
    return [_recipient(item, person) for item in found]


def _recipient(item: Any, person: _Person) -> Any:
    if not isinstance(item, dict):
        return person.taken_out_of(item)
    if not person.has(item.get("address")):
        # A server may name the person in its reply about another recipient.
        return {name: value if name == "address" else person.taken_out_of(value) for name, value in item.items()}
    if item.get("status") == "pending":
        return {"address": ERASED, "status": "failed", "reply": ERASED, "cause": Cause.ERASED.value, "reason": ERASED}
    kept = ("status", "code", "cause", "reason")
    return {"address": ERASED, **{name: item[name] for name in kept if name in item}}


# -- one run --------------------------------------------------------------------------------------------------------


class _Run:
    """Finds and erases the data, and counts it."""

    def __init__(self, person: _Person, *, dry_run: bool) -> None:
        self._person = person
        self._dry_run = dry_run
        self._count: Counter[str] = Counter()
        self._left: list[str] = []
        # The ids of deliveries to the person. All replies of their attempts are erased.
        self._to_them: set[str] = set()

    def run(self) -> Erased:
        for pk in self._named():
            while not self._erase(pk):
                pass  # it was changed after it was loaded
        self._erase_replies_that_name_them()
        if not self._dry_run:
            self._stop_actions()
        return Erased(
            deliveries=self._count["deliveries"],
            stopped=self._count["stopped"],
            contents=self._count["contents"],
            replies=self._count["replies"],
            left=tuple(self._left),
        )

    def _named(self) -> Iterator[str]:
        """Yield the ids of deliveries that name the person outside their contents.

        All rows are read and compared in Python, because databases cannot tell which addresses are equal, and have no
        common way to search JSON.
        """
        columns = ("pk", "recipients", "redirected_to", "from_header", "sender", "idempotency_key")
        rows = Delivery.objects.order_by("pk").only(*columns)
        last = ""
        while batch := list(rows.filter(pk__gt=last)[:BATCH]):
            yield from (delivery.pk for delivery in batch if _changes(delivery, self._person))
            last = batch[-1].pk

    def _erase(self, pk: str) -> bool:
        """Erase the data of one delivery. Return False when this must be tried again."""
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
            # The continuation was already published with its arguments; the options may contain the address too.
            changes |= {**content.ERASED, **({"options": ""} if delivery.is_settled else {})}
        count = Counter(
            deliveries=int(ends),
            stopped=int(to_them and not was_finished),
            contents=int(drops and delivery.has_content),
        )
        with transaction.atomic(using=rows.database()):
            if not self._dry_run and not transitions.erase(delivery, recipients, **changes):
                return False  # it was changed meanwhile
            if to_them:
                count["replies"] = self._erase_replies(pk)
        self._count += count
        if waits:
            self._left.append(pk)
        return True

    def _stop(self, delivery: Delivery, changes: dict[str, Any]) -> None:
        """Stop a mail that is being sent before the server accepts it, unless it has other recipients."""
        if rows.is_readable(delivery):
            transitions.erase(delivery, changes.get("recipients", delivery.recipients))

    def _stop_actions(self) -> None:
        """Stop unfinished bulk actions that search for the person, and erase their selections.

        An action that has ended has no selection any more.
        """
        for bulk in BulkAction.objects.filter(ended_at=None):
            if self._person.is_in(unquote_plus(bulk.selection.get("query", ""))):
                ended = {"ended_at": timezone.now(), "is_stopped": True, "selection": {}}
                BulkAction.objects.filter(pk=bulk.pk, ended_at=None).update(version=F("version") + 1, **ended)

    def _erase_replies(self, pk: str) -> int:
        """Erase the replies to a mail to the person. They may contain a name, or the address in another form."""
        self._to_them.add(pk)
        replies = DeliveryAttempt.objects.filter(delivery_id=pk).exclude(reply__in=("", ERASED))
        return replies.count() if self._dry_run else replies.update(reply=ERASED)

    def _erase_replies_that_name_them(self) -> None:
        """Erase replies to other mails that name the person: a server may say who receives a recipient's mail now."""
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
