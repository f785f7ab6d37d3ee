"""The log lines of a real worker and beat with LOG_FORMAT=json."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.mail import EmailMessage

from config.local.processes import PATIENCE, Processes, free_port, wait_until
from email_integration import submit_many
from email_integration.models import FINAL, Delivery, DeliveryAttempt
from email_integration.smtpd import Fault, SMTPServer
from email_integration.tasks import send_email
from tests import services
from tests.acceptance.conftest import Activate
from tests.stack import PATIENT, ROOT, Stack

pytestmark = pytest.mark.extra

PASSWORD = "pAssw0rd-of-the-relay"


def lines_of(stack: Stack) -> list[dict[str, Any]]:
    """Return every line that the processes wrote; raise an error for a line that is not JSON."""
    return [json.loads(line) for log in stack.folder.glob("*.log") for line in log.read_text().splitlines()]


@pytest.mark.django_db(transaction=True)
def test_every_line_is_an_object_and_each_attempt_has_one(
    stack: Callable[..., Stack], smtp_server: Callable[..., SMTPServer], activate: Activate
) -> None:
    """From the start to the end of worker and beat: single mails and a group, accepted, deferred and refused."""
    faults = [
        Fault(verb="RCPT", reply="550 5.1.1 <unknown@example.com> secret-reply", match="unknown@", times=None),
        Fault(verb="RCPT", reply="450 4.2.0 <busy@example.com> secret-reply", match="busy@", times=1),
    ]
    activate(smtp_server(password=PASSWORD, faults=faults), name="Primary")
    current = stack(env={**PATIENT, "LOG_FORMAT": "json"})
    ids = [
        send_email.delay("secret-subject", "secret-body", to=[f"{who}@example.com"], priority="high").id
        for who in ("kim", "unknown", "busy")
    ]
    submit_many(EmailMessage("secret-subject", "secret-body", to=[f"m{number}@example.com"]) for number in range(10))
    wait_until(lambda: not Delivery.objects.exclude(status__in=FINAL).exists(), what="all mails finished")
    current.end()

    lines = lines_of(current)
    assert all(isinstance(line["message"], str) and line["level"] and line["time"] for line in lines)
    attempts = [line for line in lines if "outcome" in line]
    logged = Counter((line["delivery_id"], line["attempt"], line["outcome"]) for line in attempts)
    assert logged == Counter(DeliveryAttempt.objects.values_list("delivery_id", "number", "outcome"))
    by_id = {line["delivery_id"]: line for line in attempts if line["status"] != "deferred"}
    accepted, failed, later = (by_id[pk] for pk in ids)
    assert (accepted["status"], accepted["reply_code"], accepted["phase"]) == ("accepted", 250, "final_dot")
    assert (failed["status"], failed["reply_code"], failed["enhanced_code"]) == ("failed", 550, "5.1.1")
    assert (failed["level"], failed["phase"]) == ("WARNING", "rcpt")
    assert (later["status"], later["attempt"]) == ("accepted", 2)
    [put_off] = [line for line in attempts if line["status"] == "deferred"]
    assert (put_off["delivery_id"], put_off["attempt"], put_off["enhanced_code"]) == (ids[2], 1, "4.2.0")
    assert put_off["due_at"]
    assert all(line["configuration"] == "Primary" and line["duration"] > 0 for line in attempts)
    assert {line["priority"] for line in attempts} == {"high", "bulk"}

    written = current.logs()
    assert not [word for word in ("secret-", "example.com", PASSWORD) if word in written]
    # Celery's own lines about the same tasks are omitted.
    assert not [line for line in lines if line["logger"] in ("celery.app.trace", "celery.worker.strategy")]
    assert not [line for line in lines if "Sending due task" in line["message"]]


def test_gunicorn_and_what_it_serves_write_objects_too(tmp_path: Path, transactional_db: None) -> None:
    """From start to end, including a request that makes Django log a warning."""
    services.need("valkey")
    port = free_port()
    env = {"DJANGO_SETTINGS_MODULE": "config.settings", "LOG_FORMAT": "json"}
    command = [sys.executable, "-m", "gunicorn", "config.wsgi", "--bind", f"127.0.0.1:{port}"]
    with Processes(tmp_path, env=env, cwd=ROOT) as processes:
        web = processes.start("web", command)
        web.wait_for_log("Listening at")
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/nowhere", timeout=PATIENCE)
        web.wait_for_log("Not Found")
        web.end()
    lines = [json.loads(line) for line in web.read_log().splitlines()]
    assert {"gunicorn.error", "django.request"} <= {line["logger"] for line in lines}
