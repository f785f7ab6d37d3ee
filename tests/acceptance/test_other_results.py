"""Results kept in Redis, as in many projects, instead of the database."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from email_integration.smtpd import Fault, SMTPServer
from tests import services
from tests.acceptance.conftest import environment
from tests.stack import Stack

PROGRAM = """
import json
from celery import chain, chord, group
from email_integration.exceptions import DeliveryFailed
from email_integration.tasks import send_email
from tests.acceptance.tasks import note, note_error

def mail(subject="Subject", to="kim@example.com", **more):
    return send_email.si(subject, "Text", to=[to], **more)

found = {"result": mail("plain").delay().get(timeout=100)["status"]}
try:
    mail(to="unknown@example.com").apply_async(link_error=note_error.s(tag="error")).get(timeout=100)
except DeliveryFailed as error:
    found["failure"] = [error.code, error.status]
try:
    chain(mail(to="unknown@example.com"), note.s(tag="never")).apply_async().get(timeout=100)
except DeliveryFailed as error:
    found["chain of a failed mail"] = error.code
found["chain"] = chain(mail("c1"), note.s(tag="chain"), mail("c2")).apply_async().get(timeout=100)["status"]
found["chord"] = len(chord([mail("h1"), mail("h2"), mail("h3")])(note.s(tag="chord")).get(timeout=100))
found["again"] = len(group(mail("k", idempotency_key="k") for _ in range(2)).apply_async().get(timeout=100))
revoked = mail("revoked").apply_async(countdown=60)
revoked.revoke()
try:
    revoked.get(timeout=100)
except DeliveryFailed as error:
    found["revoked"] = error.status
print("FOUND", json.dumps(found))
"""


@pytest.mark.extra
def test_results_in_redis_say_the_same(stack: Callable[..., Stack], server: SMTPServer, tmp_path: Path) -> None:
    server.inject(
        Fault(verb="RCPT", reply="450 4.2.0 busy", times=1), Fault(verb="RCPT", reply="550 5.1.1 no", match="unknown@")
    )
    results = {"ACCEPTANCE_RESULTS": services.valkey.url.replace("/0", "/1")}
    running = stack(env={**environment(tmp_path / "notes"), **results, "LOG_LEVEL": "INFO"})
    (line,) = [line for line in running.run("shell", "-c", PROGRAM).stdout.splitlines() if line.startswith("FOUND")]
    assert json.loads(line.removeprefix("FOUND ")) == {
        "result": "accepted",
        "failure": [550, "failed"],
        "chain of a failed mail": 550,
        "chain": "accepted",
        "chord": 3,
        "again": 2,
        "revoked": "cancelled",
    }
    noted = [json.loads(text)[0] for text in (tmp_path / "notes").read_text().splitlines()]
    assert sorted(noted) == ["chain", "chord", "error"]
