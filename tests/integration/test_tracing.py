"""Traces: one per mail, from its submission to the server's reply, over all workers and attempts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.mail import EmailMessage
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from config.local.processes import PATIENCE
from email_integration import submit_many, tracing
from email_integration.checks import optional
from email_integration.ledger import instrumentation
from email_integration.ledger.instrumentation import Observer
from email_integration.models import Delivery
from email_integration.smtpd import Fault, SMTPServer
from tests.deliveries import RecordingTaskQueue, attempt, due_again, in_threads, send_due, submitted
from tests.relays import config_for

Serve = Callable[..., SMTPServer]

pytestmark = pytest.mark.django_db(transaction=True)

SECRETS = ("kim@", "example.com", "kept-secret", "s3cret")


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """The exporter of all spans of this process, which can have only one provider."""
    exporter = InMemorySpanExporter()
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


@pytest.fixture(autouse=True)
def spans(exporter: InMemorySpanExporter, task_queue: RecordingTaskQueue) -> Iterator[InMemorySpanExporter]:
    """Record spans during the test."""
    exporter.clear()
    before = instrumentation.installed()
    tracing.begin()
    yield exporter
    instrumentation.install(before)


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


def test_a_mail_is_one_trace_from_the_caller_to_the_reply(smtp_server: Serve, spans: InMemorySpanExporter) -> None:
    """The submission is in the caller's trace. The attempt is below the submission; the session and the dialogue are
    below the attempt.
    """
    server = smtp_server(security="plain", user=None)
    config_for(server, name="Primary")
    with trace.get_tracer("shop").start_as_current_span("order"):
        delivery = submitted("kim@example.com", subject="kept-secret")
    attempt(delivery.pk)
    [order], [submit] = named(spans, "order"), named(spans, "submit normal")
    [deliver] = named(spans, "deliver normal")
    [connect], [transaction] = named(spans, "connect"), named(spans, "transaction")
    assert {span.context.trace_id for span in (order, submit, deliver, connect, transaction)} == {
        order.context.trace_id
    }
    assert parent_of(submit) == order.context.span_id
    assert parent_of(deliver) == submit.context.span_id
    assert parent_of(connect) == parent_of(transaction) == deliver.context.span_id
    assert (submit.kind, deliver.kind, connect.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER, SpanKind.CLIENT)
    assert deliver.attributes is not None
    assert dict(deliver.attributes) == {
        "messaging.system": "email_integration",
        "messaging.operation.name": "deliver",
        "messaging.operation.type": "process",
        "messaging.destination.name": "normal",
        "messaging.message.id": delivery.pk,
        "messaging.message.body.size": delivery.content_size,
        "email_integration.attempt": 1,
        "email_integration.status": "accepted",
        "email_integration.configuration": "Primary",
        "email_integration.reply_code": 250,
        "email_integration.enhanced_code": "2.0.0",
        "email_integration.phase": "final_dot",
    }
    assert transaction.attributes is not None
    assert (transaction.attributes["server.port"], transaction.attributes["email_integration.reply_code"]) == (
        server.port,
        250,
    )
    assert deliver.status.status_code is StatusCode.UNSET
    assert order.start_time <= submit.start_time <= deliver.start_time <= connect.start_time
    assert connect.start_time <= connect.end_time <= transaction.start_time <= transaction.end_time <= deliver.end_time


@pytest.mark.parametrize("verb", ["RCPT", "DOT"])
def test_each_attempt_is_a_span_and_says_what_went_wrong(
    smtp_server: Serve, spans: InMemorySpanExporter, verb: str
) -> None:
    """The second attempt uses the same session and opens no connection."""
    fault = Fault(verb=verb, reply="451 4.3.0 kim@example.com kept-secret", times=1)
    config_for(smtp_server(security="plain", user=None, faults=[fault]))
    delivery = submitted("kim@example.com")
    attempt(delivery.pk)
    due_again()
    attempt(delivery.pk)
    first, second = named(spans, "deliver normal")
    assert first.attributes is not None
    assert (first.attributes["email_integration.reply_code"], first.attributes["error.type"]) == (451, "451")
    assert first.attributes["email_integration.enhanced_code"] == "4.3.0"
    assert first.status.status_code is StatusCode.ERROR
    assert second.attributes is not None
    assert second.attributes["email_integration.attempt"] == 2
    assert second.status.status_code is StatusCode.UNSET
    assert first.context.trace_id == second.context.trace_id
    assert parent_of(first) == parent_of(second)
    assert [parent_of(one) for one in named(spans, "transaction")] == [first.context.span_id, second.context.span_id]
    assert [parent_of(one) for one in named(spans, "connect")] == [first.context.span_id]


def test_a_server_that_refuses_all_logins_is_a_failed_connection(
    smtp_server: Serve, spans: InMemorySpanExporter
) -> None:
    config_for(smtp_server(), password="s3cret")
    attempt(submitted("kim@example.com").pk)
    [connect] = named(spans, "connect")
    assert connect.attributes is not None
    assert (connect.attributes["email_integration.reply_code"], connect.attributes["email_integration.phase"]) == (
        535,
        "auth",
    )
    assert connect.status.status_code is StatusCode.ERROR
    assert not named(spans, "transaction")


def test_no_span_says_anything_of_a_mail(smtp_server: Serve, spans: InMemorySpanExporter) -> None:
    fault = Fault(verb="RCPT", reply="550 5.1.1 kim@example.com s3cret", times=1)
    config_for(smtp_server(faults=[fault]))
    attempt(submitted("kim@example.com", subject="kept-secret").pk)
    shown = "".join(span.to_json() for span in spans.get_finished_spans())
    assert "deliver normal" in shown
    assert not [secret for secret in SECRETS if secret in shown]


@pytest.mark.parametrize("sessions", [1, 3])
def test_over_a_crew_each_mail_has_its_own(
    smtp_server: Serve, spans: InMemorySpanExporter, settings: Any, sessions: int
) -> None:
    """Each mail has its own trace, attempt and transaction. Each session has one span for its connection."""
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SESSIONS": sessions}
    server = smtp_server(security="plain", user=None)
    config_for(server)
    submit_many((EmailMessage("S", "B", to=["kim@example.com"]) for _ in range(5)), priority="normal")
    assert send_due() == {"accepted": 5}
    delivers = {span.context.span_id: span for span in named(spans, "deliver normal")}
    assert len({span.context.trace_id for span in delivers.values()}) == 5
    assert {parent_of(one) for one in named(spans, "transaction")} == set(delivers)
    connects = named(spans, "connect")
    assert len(connects) == len(server.sessions) <= sessions
    assert {parent_of(connect) for connect in connects} <= set(delivers)


def test_threads_do_not_mix_up_their_parts(smtp_server: Serve, spans: InMemorySpanExporter) -> None:
    config_for(smtp_server(security="plain", user=None))
    deliveries = [submitted("kim@example.com") for _ in range(4)]
    in_threads(*(lambda pk=one.pk: attempt(pk) for one in deliveries))
    delivers = [span.context.span_id for span in named(spans, "deliver normal")]
    assert sorted(filter(None, map(parent_of, named(spans, "transaction")))) == sorted(delivers)


def test_another_observer_is_called_too() -> None:
    """An observer that was installed earlier is still called."""
    observed: list[str] = []

    class Counting(Observer):
        def submitting(self, delivery: Delivery) -> None:
            observed.append(delivery.pk)

    instrumentation.install(Counting())
    tracing.begin()
    delivery = submitted()
    assert observed == [delivery.pk]
    assert Delivery.objects.get(pk=delivery.pk).traceparent


def test_without_the_setting_nothing_is_imported() -> None:
    code = "import django; django.setup(); import sys; sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=PATIENCE).returncode == 0


def test_without_a_provider_there_is_no_trace_and_no_harm() -> None:
    """The API alone, as the extra installs it, makes no spans."""
    code = (
        "import django; django.setup()\n"
        "from email_integration import tracing\n"
        "from email_integration.ledger import instrumentation\n"
        "from email_integration.models import Delivery\n"
        "delivery = Delivery(id='1')\n"
        "assert 'Traces' in repr(vars(instrumentation.installed()))\n"
        "instrumentation.installed().submitting(delivery)\n"
        "assert delivery.traceparent == ''\n"
    )
    environment = {"TRACES": "true"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        check=False,
        timeout=PATIENCE,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()


def test_that_traces_cannot_be_had_is_found_by_the_checks(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "TRACES": True}
    assert "email_integration.W011" not in {message.id for message in run_checks(tags=["email_integration"])}
    monkeypatch.setattr(optional, "find_spec", lambda name: None)
    assert "email_integration.W011" in {message.id for message in run_checks(tags=["email_integration"])}
