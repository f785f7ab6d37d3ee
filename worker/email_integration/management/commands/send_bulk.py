"""Send a template to everybody in a CSV file."""

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

#: Wrong lines that are told of at once.
_SHOWN = 20


class _Message(EmailMultiAlternatives):
    """A message that knows its idempotency key, and the line it comes from."""

    key = ""
    line = 0


@dataclass(frozen=True, kw_only=True)
class _MessageBuilder:
    """Makes the message of a row out of templates, whose context is the row."""

    subject: Template
    text: Template
    html: Template | None
    key: Template | None
    from_email: str | None
    to_column: str

    def build_message(self, row: dict[str, str], line: int) -> _Message:
        """The message. Raises what templates raise."""
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
    """All rows are checked before the first mail is submitted."""

    help = (
        "Send a template to everybody in a CSV file (UTF-8, with a header; a column 'email', all columns are the "
        "template's context). Nothing is submitted unless every line is right."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take a file and a template."""
        parser.add_argument("--csv", required=True, type=Path, metavar="FILE", help="who gets it")
        parser.add_argument(
            "--template",
            required=True,
            metavar="NAME",
            help="NAME.txt is the text, NAME.html, if there is one, the HTML, NAME_subject.txt the subject",
        )
        parser.add_argument("--subject", metavar="TEXT", help="the subject, a template too, instead of a file")
        parser.add_argument(
            "--from", dest="from_email", metavar="ADDRESS", help="instead of the configuration's sender"
        )
        parser.add_argument("--to-column", default="email", metavar="COLUMN", help="the column with the address")
        parser.add_argument("--priority", default=Priority.BULK, choices=Priority.values, help="default: bulk")
        parser.add_argument(
            "--key",
            metavar="TEXT",
            help="a template that says which mail a row is, such as 'news 7 to {{ email }}': "
            "with it nothing is sent twice, however often this is run",
        )
        parser.add_argument("--dry-run", action="store_true", help="check every line, submit nothing")

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
            raise CommandError(f"{error} All before it are submitted.") from error
        new = _count_since(started, ids) if builder.key else len(ids)
        self.stdout.write(f"{new} mails submitted." + (f" {total - new} were before." if total > new else ""))

    def _report_progress(self, done: int, total: int, verbosity: int) -> None:
        """Write a line that is written over on a terminal, else one for each batch; on stderr."""
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
        raise CommandError(f"A template is wrong: {error}") from error


def _optional(engine: Engine, name: str) -> Template | None:
    try:
        return engine.get_template(name)
    except TemplateDoesNotExist:
        return None


def _messages(file: Path, builder: _MessageBuilder) -> Iterator[_Message]:
    """The messages of a file, as it is read. Raises ``CommandError`` for a line that cannot be read."""
    line = 1
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened, strict=True)
            columns = reader.fieldnames or []
            if builder.to_column not in columns:
                raise CommandError(
                    f"{file} has no column {builder.to_column!r}; it has {', '.join(columns) or 'none'}."
                )
            for row in reader:
                line = reader.line_num
                if None in row or None in row.values():
                    raise CommandError(f"Line {line}: it has more or fewer fields than the header.")
                yield builder.build_message(row, line)
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{file} is not in UTF-8, after line {line}.") from error
    except (TemplateDoesNotExist, TemplateSyntaxError) as error:
        raise CommandError(f"Line {line}: a template is wrong: {error}") from error
    except csv.Error as error:
        raise CommandError(f"After line {line}: {error}.") from error


def _check(file: Path, builder: _MessageBuilder) -> int:
    """Render everything and keep nothing; return how many there are. Raises ``CommandError`` with the lines."""
    wrong: list[str] = []
    lines: dict[str, int] = {}
    total = 0
    for message in _messages(file, builder):
        total += 1
        try:
            rendered = render(message, default_from_is_open=True)
            # Django would hand it to the server, which may have such a mailbox. In a file of people it is a mistake.
            if any("@" not in one for one in rendered.recipients):
                raise InvalidMail(f"to: the address {quoted(message.to[0])} has no domain; write 'user@example.com'.")
            if builder.key is not None:
                check_name("key", message.key)
                if message.key in lines:
                    raise InvalidMail(f"its key is that of line {lines[message.key]}: {message.key!r}.")
                lines[message.key] = message.line
        except InvalidMail as error:
            wrong.append(f"Line {message.line}: {error}")
            if len(wrong) == _SHOWN:
                break
    if wrong:
        raise CommandError("\n".join([*wrong, "Nothing was submitted."]))
    return total


def _count_since(started: Any, ids: list[str]) -> int:
    """How many of these were not there before."""
    new = Delivery.objects.filter(created_at__gte=started)
    parts = (ids[start : start + bulk.BATCH] for start in range(0, len(ids), bulk.BATCH))
    return sum(new.filter(pk__in=part).count() for part in parts)
