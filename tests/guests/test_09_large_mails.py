"""A project that sends large files: the memory that submitting one takes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.host_project import POSTGRESQL, HostProject

pytestmark = pytest.mark.extra

#: With DEBUG, Django keeps the text of each statement, including the content.
NO_DEBUG = "\nDEBUG = False\n"

#: Prints the size of the mail, and the peak growth of the process's memory while submitting, file included.
SUBMIT = """
import gc
import os
from django.core.mail import EmailMessage
from email_integration.backends.queued import EmailBackend
from email_integration.models import Delivery
from email_integration.tasks import send_email

def said(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))

def submit(file):
    how = {how!r}
    if how == "task":
        send_email.delay("S", "B", to=["kim@example.com"], attachments=[("a.zip", file, "application/zip")])
    else:
        message = EmailMessage("S", "B", None, ["kim@example.com"])
        message.attach("a.zip", file, "application/zip")
        EmailBackend().send_messages([message])

submit(b"warm")
gc.collect()
open("/proc/self/clear_refs", "w").write("5")
before = said("VmRSS")
submit(os.urandom(150 * 1024 * 1024))
peak = said("VmHWM")
print(Delivery.objects.values_list("content_size", flat=True).latest("created_at"), peak - before)
"""


@pytest.mark.parametrize("how", ["task", "message"])
@pytest.mark.parametrize("database", ["PostgreSQL", "SQLite"])
def test_submitting_takes_three_times_the_size(
    row: Callable[[str, str], None],
    host: Callable[..., HostProject],
    request: pytest.FixtureRequest,
    database: str,
    how: str,
) -> None:
    row(f"a mail of 200 MB, by {how}, {database}", "submitted in at most three times its size of memory")
    if database == "PostgreSQL":
        project = host(POSTGRESQL + NO_DEBUG, env={"DATABASE": request.getfixturevalue("postgresql")})
    else:
        project = host(NO_DEBUG)
    project.run("manage.py", "migrate", "--verbosity", "0")
    size, taken = map(int, project.shell(SUBMIT.format(how=how)).split())
    assert size > 200 * 1024 * 1024
    print(f"{taken / size:.2f} times its size")
    assert taken <= 3 * size, f"{taken / size:.2f} times its size"
