"""A trace that begins in this process and continues in a real worker."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from django.core.mail import EmailMessage
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from config.local.processes import wait_until
from email_integration import submit_many, tracing
from email_integration.ledger import instrumentation
from email_integration.models import FINAL, Delivery
from email_integration.smtpd import SMTPServer
from email_integration.tasks import send_email
from tests.acceptance.conftest import Activate, environment
from tests.acceptance.tracing import SPANS
from tests.stack import PATIENT, Stack

pytestmark = pytest.mark.extra


@pytest.mark.django_db(transaction=True)
def test_a_worker_s_attempts_are_of_the_trace_that_the_mail_was_submitted_in(
    stack: Callable[..., Stack], smtp_server: Callable[..., SMTPServer], activate: Activate, tmp_path: Path
) -> None:
    """Single mails and a group, in two processes that were forked from one."""
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider())
    spans = tmp_path / "spans"
    activate(smtp_server(security="plain", user=None))
    env = {"TRACES": "true", SPANS: str(spans), "ACCEPTANCE_INCLUDE": "tests.acceptance.tracing"}
    stack(beat=False, env={**PATIENT, **environment(tmp_path / "notes"), **env})
    before = instrumentation.installed()
    tracing.begin()
    try:
        send_email.delay("secret-subject", "secret-body", to=["kim@example.com"])
        submit_many(EmailMessage("secret-subject", "B", to=["kim@example.com"]) for _ in range(20))
    finally:
        instrumentation.install(before)
    wait_until(lambda: not Delivery.objects.exclude(status__in=FINAL).exists(), what="all mails finished")

    def delivers() -> list[dict[str, dict[str, str]]]:
        found = [json.loads(line) for line in spans.read_text().splitlines()]
        return [span for span in found if span["name"].startswith("deliver ")]

    wait_until(lambda: len(delivers()) == 21, what="a span for each attempt")
    exported = {one["attributes"]["messaging.message.id"]: one["context"]["trace_id"][2:] for one in delivers()}
    context = dict(Delivery.objects.values_list("pk", "traceparent"))
    assert exported == {pk: traceparent.split("-")[1] for pk, traceparent in context.items()}
    assert len(set(exported.values())) == 21
    written = spans.read_text()
    assert not [word for word in ("secret-", "example.com") if word in written]
