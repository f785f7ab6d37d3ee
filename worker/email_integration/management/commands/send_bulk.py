"""``manage.py send_bulk``: send a template to every recipient in a CSV file."""

from __future__ import annotations

import csv
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.core.mail import EmailMultiAlternatives
from django.core.management.base import BaseCommand, CommandError
from django.template import Context, Engine, Template, TemplateDoesNotExist, TemplateSyntaxError
from django.utils import timezone

from email_integration import submit_many
from email_integration.addresses import quoted
from email_integration.exceptions import InvalidMail
from email_integration.message.rendering import render
from email_integration.models import Delivery, Priority
from email_integration.queue import bulk
from email_integration.queue.submission import check_name

#: How many invalid lines one error message lists.
_SHOWN = 20


class _Message(EmailMultiAlternatives):
    """A message with its idempotency key and its line in the file."""

    key = ""
    line = 0


@dataclass(frozen=True, kw_only=True)
class _MessageBuilder:
    """Builds the message of a row from templates. The row is their context."""

    subject: Template
    text: Template
    html: Template | None
    key: Template | None
    from_email: str | None
    to_column: str

    def build_message(self, row: dict[str, str], line: int) -> _Message:
        """Return the message of ``row``. Raises the errors of the templates."""
        plain = Context(row, autoescape=False)
        message = _Message(
            subject=" ".join(self.subject.render(plain).split()),
            body=self.text.render(plain),
            from_email=self.from_email,
            to=[row[self.to_column].strip()],
        )
        if self.html is not None:
            message.attach_alternative(self.html.render(Context(row)), "text/html")
        message.key = self.key.render(plain).strip() if self.key is not None else ""
        message.line = line
        return message


class Command(BaseCommand):
    """Send a template to the rows of a CSV file, after it has checked all of them."""

    help = (
        "Send a template to every recipient in a CSV file. The file is UTF-8 and has a header with a column 'email'; "
        "all columns are the template's context. No mail is submitted unless every line is valid."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the file, the template and the options."""
        parser.add_argument("--csv", required=True, type=Path, metavar="FILE", help="the file with the recipients")
        parser.add_argument(
            "--template",
            required=True,
            metavar="NAME",
            help="NAME.txt is the text, NAME.html (if it exists) the HTML, and NAME_subject.txt the subject",
        )
        parser.add_argument("--subject", metavar="TEXT", help="a template for the subject, instead of NAME_subject.txt")
        parser.add_argument(
            "--from", dest="from_email", metavar="ADDRESS", help="the sender, instead of the configuration's sender"
        )
        parser.add_argument(
            "--to-column", default="email", metavar="COLUMN", help="the column with the address (default: email)"
        )
        parser.add_argument(
            "--priority", default=Priority.BULK, choices=Priority.values, help="the priority (default: bulk)"
        )
        parser.add_argument(
            "--key",
            metavar="TEXT",
            help="a template for the idempotency key of a row, such as 'news 7 to {{ email }}': "
            "with it, a second run submits no mail twice",
        )
        parser.add_argument("--dry-run", action="store_true", help="check every line, and submit no mail")

    def handle(self, *args: Any, **options: Any) -> None:
        """Check all rows, then submit all."""
        builder = _message_builder(options)
        total = _check(options["csv"], builder)
        if options["dry_run"]:
            self.stdout.write(f"{total} mails can be sent; none was submitted.")
            return
        started = timezone.now()
        try:
            ids = submit_many(
                _messages(options["csv"], builder),
                priority=options["priority"],
                idempotency_key=(lambda message: message.key) if builder.key else None,  # type: ignore[attr-defined]
                on_progress=lambda done: self._report_progress(done, total, options["verbosity"]),
            )
        except InvalidMail as error:
            raise CommandError(f"{error} All mails before it have been submitted.") from error
        new = _count_since(started, ids) if builder.key else len(ids)
        self.stdout.write(
            f"{new} mails submitted." + (f" {total - new} had been submitted before." if total > new else "")
        )

    def _report_progress(self, done: int, total: int, verbosity: int) -> None:
        """Write the progress to stderr: on a terminal one line that is overwritten, else one line for each batch."""
        if not verbosity:
            return
        if self.stderr.isatty():
            filled = 40 * done // total
            bar = "█" * filled + "░" * (40 - filled)
            self.stderr.write(f"\r{bar} {done} of {total}", self.style.NOTICE, ending="\n" if done == total else "")
            self.stderr.flush()
        else:
            self.stderr.write(f"{done} of {total}", lambda text: text)


def _message_builder(options: dict[str, Any]) -> _MessageBuilder:
    name, engine = options["template"], Engine.get_default()
    given = options["subject"]
    try:
        return _MessageBuilder(
            subject=engine.get_template(f"{name}_subject.txt") if given is None else engine.from_string(given),
            text=engine.get_template(f"{name}.txt"),
            html=_optional(engine, f"{name}.html"),
            key=engine.from_string(options["key"]) if options["key"] else None,
            from_email=options["from_email"],
            to_column=options["to_column"],
        )
    except TemplateDoesNotExist as error:
        raise CommandError(f"There is no template {error}.") from error
    except TemplateSyntaxError as error:
        raise CommandError(f"A template has an error: {error}") from error


def _optional(engine: Engine, name: str) -> Template | None:
    try:
        return engine.get_template(name)
    except TemplateDoesNotExist:
        return None


def _messages(file: Path, builder: _MessageBuilder) -> Iterator[_Message]:
    """Yield the messages of a file while it is read. Raises ``CommandError`` for a line that cannot be read."""
    line = 1
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened, strict=True)
            columns = reader.fieldnames or []
            if builder.to_column not in columns:
                raise CommandError(
                    f"{file} has no column {builder.to_column!r}. Its columns are: {', '.join(columns) or 'none'}."
                )
            for row in reader:
                line = reader.line_num
                if None in row or None in row.values():
                    raise CommandError(f"Line {line} has more or fewer fields than the header.")
                yield builder.build_message(row, line)
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{file} is not valid UTF-8 after line {line}. Save it as UTF-8.") from error
    except (TemplateDoesNotExist, TemplateSyntaxError) as error:
        raise CommandError(f"Line {line}: a template has an error: {error}") from error
    except csv.Error as error:
        raise CommandError(f"After line {line}: {error}.") from error


def _check(file: Path, builder: _MessageBuilder) -> int:
    """Render all messages without keeping them, and return their number.

    Raises ``CommandError`` with the invalid lines.
    """
    wrong: list[str] = []
    lines: dict[str, int] = {}
    total = 0
    for message in _messages(file, builder):
        total += 1
        try:
            rendered = render(message, default_from_is_open=True)
            # Django passes it to the server, which may have such a mailbox. In a file of recipients it is a mistake.
            if any("@" not in one for one in rendered.recipients):
                raise InvalidMail(f"to: the address {quoted(message.to[0])} has no domain; write 'user@example.com'.")
            if builder.key is not None:
                check_name("key", message.key)
                if message.key in lines:
                    raise InvalidMail(f"it has the same key as line {lines[message.key]}: {message.key!r}.")
                lines[message.key] = message.line
        except InvalidMail as error:
            wrong.append(f"Line {message.line}: {error}")
            if len(wrong) == _SHOWN:
                break
    if wrong:
        raise CommandError("\n".join([*wrong, "No mail was submitted."]))
    return total


def _count_since(started: Any, ids: list[str]) -> int:
    """Return how many of these deliveries were created since ``started``."""
    new = Delivery.objects.filter(created_at__gte=started)
    parts = (ids[start : start + bulk.BATCH] for start in range(0, len(ids), bulk.BATCH))
    return sum(new.filter(pk__in=part).count() for part in parts)
