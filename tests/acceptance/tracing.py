"""The code with which a project records its workers' spans; here it writes them to a file."""

from __future__ import annotations

import os
from typing import Any

from celery.signals import worker_process_init
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

#: The variable that names the file.
SPANS = "ACCEPTANCE_SPANS"


@worker_process_init.connect
def trace_here(**kwargs: Any) -> None:
    provider = TracerProvider()
    file = open(os.environ[SPANS], "a", buffering=1)  # noqa: SIM115  # stays open as long as the process lives
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=file, formatter=_line)))
    trace.set_tracer_provider(provider)


def _line(span: Any) -> str:
    return f"{span.to_json(indent=None)}\n"
