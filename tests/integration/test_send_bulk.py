"""``manage.py send_bulk``: a file of recipients and a template. A wrong line stops the mail to all of them."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from email_integration.management.commands import send_bulk
from email_integration.models import Delivery
from email_integration.testing import outbox
from tests.deliveries import RecordingTaskQueue

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("task_queue", "templates")]

Write = Callable[..., Path]


@pytest.fixture
def templates(settings: Any, tmp_path: Path) -> Path:
    """The template 'news', with text and subject."""
    engines = copy.deepcopy(settings.TEMPLATES)
    engines[0]["DIRS"] = [tmp_path]
    settings.TEMPLATES = engines
    (tmp_path / "news_subject.txt").write_text("News for {{ name }}\n")
    (tmp_path / "news.txt").write_text("Hello {{ name }}\n")
    return tmp_path


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file with these lines."""

    def write(*lines: str, encoding: str = "utf-8") -> Path:
        file = tmp_path / "people.csv"
        file.write_bytes("\r\n".join(lines).encode(encoding))
        return file

    return write


def people(number: int) -> list[str]:
    return ["email,name", *(f"u{one}@example.com,Name {one}" for one in range(number))]


def run(file: Path, *options: str, **more: Any) -> tuple[str, str]:
    """Return the output on stdout and on stderr."""
    out, err = io.StringIO(), more.pop("stderr", None) or io.StringIO()
    call_command("send_bulk", "--csv", str(file), "--template", "news", *options, stdout=out, stderr=err, **more)
    return out.getvalue(), err.getvalue()


def test_everybody_gets_the_template_filled_in(write: Write, task_queue: RecordingTaskQueue) -> None:
    out, _ = run(write("email,name", "kim@example.com,Kim <3 & Lee", 'lee@example.com,"Lee, ""L"""', ""))
    assert out == "2 mails submitted.\n"
    assert [(mail.recipients, mail.subject, mail.body.strip()) for mail in sorted(outbox, key=lambda m: m.to)] == [
        (["kim@example.com"], "News for Kim <3 & Lee", "Hello Kim <3 & Lee"),
        (["lee@example.com"], 'News for Lee, "L"', 'Hello Lee, "L"'),
    ]
    assert set(Delivery.objects.values_list("priority", "from_header")) == {("bulk", "")}
    assert len(task_queue.woken) == 1


def test_html_is_sent_along_where_there_is_a_template_and_is_escaped(write: Write, templates: Path) -> None:
    (templates / "news.html").write_text("<p>{{ name }}</p>")
    run(write("email,name", "kim@example.com,Kim <3"))
    [mail] = outbox
    assert mail.body.strip() == "Hello Kim <3"
    assert "<p>Kim &lt;3</p>" in (mail.html_body or "")


def test_subject_sender_column_and_priority_can_be_given(write: Write) -> None:
    file = write("to,name", "kim@example.com,Kim")
    run(file, "--to-column", "to", "--subject", "For {{ name }}", "--from", "Ada <ada@example.com>", "--priority=high")
    [mail] = outbox
    assert (mail.subject, mail.from_email, mail.to) == ("For Kim", "Ada <ada@example.com>", ["kim@example.com"])
    assert Delivery.objects.get().priority == "high"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_makes_no_difference(write: Write, encoding: str) -> None:
    run(write("email,name", "kim@example.com,Zoë", encoding=encoding))
    assert outbox[0].subject == "News for Zoë"


def test_a_dry_run_checks_all_and_submits_none(write: Write) -> None:
    out, _ = run(write(*people(3)), "--dry-run")
    assert out == "3 mails can be sent; none was submitted.\n"
    with pytest.raises(CommandError, match="Line 3: to: "):
        run(write(*people(1), "kim,N"), "--dry-run")
    assert not Delivery.objects.exists()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["not an address,N"], "Line 5: to: "),
        ([",N"], "Line 5: The mail has no recipient"),
        (["kim@example.com"], "Line 5 has more or fewer fields"),
        (["kim@example.com,N,more"], "Line 5 has more or fewer fields"),
        (['kim@example.com,"N'], "After line 4: "),
        (["one,N", "kim@example.com,N", "two,N"], r"(?s)Line 5: .*Line 7: .*No mail was submitted"),
    ],
)
def test_a_wrong_line_is_named_and_no_mail_is_sent(write: Write, lines: list[str], said: str) -> None:
    with pytest.raises(CommandError, match=said):
        run(write(*people(3), *lines))
    assert not Delivery.objects.exists()


def test_a_file_that_cannot_be_read_is_said(write: Write, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot be read: No such file"):
        run(tmp_path / "none.csv")
    with pytest.raises(CommandError, match="is not valid UTF-8"):
        run(write("email,name", "kim@example.com,Zoë", encoding="latin-1"))
    with pytest.raises(CommandError, match=r"no column 'email'\. Its columns are: mail, name"):
        run(write("mail,name", "kim@example.com,Kim"))
    with pytest.raises(CommandError, match=r"no column 'email'\. Its columns are: none"):
        run(write())


def test_a_template_that_is_wrong_is_said(write: Write, templates: Path) -> None:
    file = write(*people(1))
    with pytest.raises(CommandError, match="A template has an error"):
        run(file, "--subject", "{% if %}")
    (templates / "news.html").write_text("{% extends 'base.html' %}")
    with pytest.raises(CommandError, match=r"Line 2: a template has an error: base\.html"):
        run(file)
    assert not Delivery.objects.exists()


@pytest.mark.parametrize("missing", ["news.txt", "news_subject.txt"])
def test_a_template_that_is_missing_is_named(write: Write, templates: Path, missing: str) -> None:
    (templates / missing).unlink()
    with pytest.raises(CommandError, match=f"There is no template {missing}"):
        run(write(*people(1)))


def test_a_second_run_with_a_key_submits_no_mail_twice(write: Write, task_queue: RecordingTaskQueue) -> None:
    """New recipients in the file get it."""
    key = ("--key", "news 7 to {{ email }}")
    assert run(write(*people(3)), *key)[0] == "3 mails submitted.\n"
    assert run(write(*people(5)), *key)[0] == "2 mails submitted. 3 had been submitted before.\n"
    assert Delivery.objects.count() == 5
    assert len(task_queue.woken) == 2
    assert run(write(*people(5)), "--key", "news 8 to {{ email }}")[0] == "5 mails submitted.\n"


def test_lines_of_one_key_are_refused_and_not_left_out(write: Write) -> None:
    """For example if the key does not contain the address."""
    with pytest.raises(CommandError, match="Line 3: it has the same key as line 2: 'news 7'"):
        run(write(*people(2)), "--key", "news 7")
    with pytest.raises(CommandError, match="Line 2: key must be text of 1 to 255 characters"):
        run(write(*people(1)), "--key", "{{ nothing }}")
    assert not Delivery.objects.exists()


def test_a_line_that_goes_wrong_after_the_check_is_named_and_a_second_run_doubles_nothing(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example if the file was changed in the meantime."""
    wrong = write(*people(3), "kim@,N", "lee@example.com,Lee")
    key = ("--key", "news 7 to {{ email }}")
    with monkeypatch.context() as patched:
        patched.setattr(send_bulk, "_check", lambda file, builder: 5)
        with pytest.raises(CommandError, match=r"^Message 4: to: .* All mails before it have been submitted\.$"):
            run(wrong, *key)
    assert Delivery.objects.count() == 3
    assert run(write(*people(4), "lee@example.com,Lee"), *key)[0] == "2 mails submitted. 3 had been submitted before.\n"


def test_progress_is_a_line_for_each_batch_or_one_that_is_written_over(write: Write) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    file = write(*people(5))
    assert run(file)[1] == "5 of 5\n"
    assert run(file, verbosity=0)[1] == ""
    _, err = run(file, stderr=Terminal())
    assert "\r" in err
    assert "█ 5 of 5" in err
