"""``manage.py delivery``: inspect and manage deliveries."""

from __future__ import annotations

import argparse
import datetime as dt
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from django.core.management.base import CommandError, CommandParser

from email_integration import conf
from email_integration.delivery import cancel, discard, release, resend, send_now
from email_integration.exceptions import ContentUnavailable
from email_integration.ledger import rows
from email_integration.management.printing import PrintingCommand
from email_integration.models import Delivery, DeliveryAttempt, Status
from email_integration.timezones import local_time

#: The decisions: the function, the message after success, and the help.
DECISIONS: dict[str, tuple[Callable[[str], object], str, str]] = {
    "cancel": (cancel, "cancelled", "do not send a mail that waits or is in doubt"),
    "send-now": (send_now, "due now", "try at once to send a mail that waits, is in doubt or is quarantined"),
    "release": (release, "will be sent again", "send a mail in doubt again: the same bytes with the same Message-ID"),
    "discard": (discard, "discarded", "do not send a mail in doubt again; it counts as failed"),
    "resend": (resend, "a copy will be sent", "send the same bytes to all of the same recipients, as a separate mail"),
}


class Command(PrintingCommand):
    """Show, list, cancel, send, release, discard, resend."""

    help = (
        "Show deliveries, and cancel, send, release, discard or resend them. Exits with code 1 if one of these actions "
        "could not be done."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the subcommands and the deliveries they act on."""
        commands = parser.add_subparsers(dest="what", required=True, metavar="ACTION")
        for name, (_decision, _done, what) in DECISIONS.items():
            command = commands.add_parser(name, help=what, description=f"{what.capitalize()}.")
            command.add_argument(
                "ids", nargs="+", metavar="ID", help="the id of a delivery, which is its Celery task id"
            )
        show = commands.add_parser("show", help="show the status of a mail and each attempt")
        show.add_argument("id", metavar="ID")
        show.add_argument("--addresses", action="store_true", help="also show addresses and the replies of servers")
        some = commands.add_parser("list", help="list the newest deliveries, a line for each")
        some.add_argument("--status", choices=Status.values, help="only deliveries with this status")
        some.add_argument(
            "--limit", type=_positive, default=20, metavar="N", help="the number of deliveries (default: 20)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the chosen subcommand."""
        if options["what"] == "show":
            self._print(_shown(_found(options["id"]), addresses=options["addresses"]))
        elif options["what"] == "list":
            self._print(_listed(options["status"], options["limit"]))
        else:
            decided = [self._decide(options["what"], pk) for pk in options["ids"]]
            if not all(decided):
                sys.exit(1)

    def _decide(self, what: str, pk: str) -> bool:
        decision, done, _help = DECISIONS[what]
        try:
            decided = decision(pk)
        except Delivery.DoesNotExist:
            why_not: str | None = UNKNOWN
        except ContentUnavailable as unavailable:
            why_not = str(unavailable)
        else:
            why_not = None if decided else _state(pk)
        copy = f" as {decided.pk}" if why_not is None and isinstance(decided, Delivery) else ""
        self.stdout.write(f"✗ {pk}: {why_not}" if why_not is not None else f"{pk}: {done}{copy}")
        return why_not is None

    def _print(self, lines: Iterator[str]) -> None:
        for line in lines:
            self.stdout.write(_UNSHOWN.sub("\ufffd", " ".join(line.splitlines())))


#: Characters that a terminal must not receive, from replies of servers and from rows: controls, and those that change
#: the direction of the letters after them.
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


UNKNOWN = "there is no delivery with this id"


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def _found(pk: str) -> Delivery:
    delivery = rows.load(pk)
    if delivery is None:
        raise CommandError(f"✗ {pk}: {UNKNOWN}")
    return delivery


def _state(pk: str) -> str:
    delivery = rows.load(pk)
    return UNKNOWN if delivery is None else f"its status is {_words(delivery.current_status)}"


def _listed(status: str | None, limit: int) -> Iterator[str]:
    deliveries = Delivery.objects.defer("content", "options")
    if status is not None:
        deliveries = rows.in_status(deliveries, status)
    found = list(deliveries[:limit])
    if not found:
        yield "There are no such deliveries."
    for delivery in found:
        said = f"  {delivery.reason}" if delivery.reason else ""
        yield f"{delivery.pk}  {_time(delivery.created_at)}  {_words(delivery.current_status):<11}{said}"


def _shown(delivery: Delivery, *, addresses: bool) -> Iterator[str]:
    policy = delivery.in_doubt_policy or f"{conf.get('IN_DOUBT')} (from the setting IN_DOUBT)"
    kept = "kept" if delivery.has_content else "deleted"
    for name, value in (
        ("id", delivery.pk),
        ("status", _words(delivery.current_status)),
        ("reason", delivery.reason),
        ("priority", delivery.priority),
        ("attempts", delivery.attempts),
        ("submitted", _time(delivery.created_at)),
        ("due", None if delivery.finished_at else _time(delivery.due_at)),
        ("expires", None if delivery.finished_at else _time(delivery.expires_at)),
        ("finished", delivery.finished_at and _time(delivery.finished_at)),
        ("SMTP config", delivery.smtp_config),
        ("Message-ID", delivery.message_id),
        ("content", f"{delivery.content_size} octets, {kept}"),
        ("in doubt", policy),
        ("from", delivery.from_header if addresses else None),
        ("redirected", (delivery.redirected_to if addresses else "yes") if delivery.redirected_to else None),
    ):
        if value not in (None, ""):
            yield f"{name:<11} {value}"
    yield from _recipients(delivery, addresses=addresses)
    for attempt in delivery.attempt_log.all():
        yield f"attempt {attempt.number:<3} {_attempt(attempt)}"
        if addresses and attempt.reply:
            yield f"            {attempt.reply}"


def _recipients(delivery: Delivery, *, addresses: bool) -> Iterator[str]:
    if not rows.is_readable(delivery):
        yield "recipients  cannot be read"
        return
    for number, item in enumerate(delivery.recipients, start=1):
        said = f": {item['reason']}" if item.get("reason") else ""
        yield f"recipient   {item['address'] if addresses else number}: {item['status']}{said}"
        if addresses and item.get("reply") and item["reply"] != item.get("reason"):
            yield f"            {item.get('code') or ''} {item['reply']}"


def _attempt(attempt: DeliveryAttempt) -> str:
    took = "" if attempt.duration is None else f" in {attempt.duration:.2f} s"
    where = ", ".join(filter(None, (attempt.smtp_config, attempt.host, attempt.tls_version)))
    said = f": {attempt.reason}" if attempt.reason else ""
    return f"{_time(attempt.started_at)} {_words(attempt.outcome)}{took}{f' ({where})' if where else ''}{said}"


def _words(status: str) -> str:
    """Return the status in English, as all output of this command is, whatever language the project uses."""
    return status.replace("_", " ")


def _time(moment: dt.datetime) -> str:
    return f"{local_time(moment):%Y-%m-%d %H:%M:%S}"
