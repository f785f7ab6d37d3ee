"""OpenTelemetry traces of mails, from submission to the server's reply. Imported only if TRACES is set.

The trace begins (or continues) where the mail is submitted, and the delivery's row stores its context. Each attempt is
a span of that trace, however late and however often the mail is tried, and by any process. Spans are made after an
attempt is recorded, from times that are measured in any case. Therefore nothing waits for spans, and a skipped attempt
has none.

Names follow the semantic conventions for messaging where these define one. No span contains an address, a subject or
the server's text.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

from opentelemetry import context, trace
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from email_integration.ledger import events, instrumentation
from email_integration.ledger.records import Ended
from email_integration.models import Delivery
from email_integration.outcomes.classification import Accepted
from email_integration.smtp import Relay

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Callable[..., None])

_W3C = TraceContextTextMapPropagator()

#: Maximum number of attempts that are not recorded yet. The attempts of a lost batch are never recorded.
_MOST_UNRECORDED = 1000

#: Nanoseconds by which the times of an attempt and of its parts may differ, because two clocks measure them.
_LEEWAY = 1_000_000


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A part of an attempt, such as connecting, with its beginning and end in nanoseconds since 1970."""

    name: str
    began: int
    ended: int
    succeeded: bool = True


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """An attempt with its beginning and end by the clock of its parts; its record uses the database's clock."""

    began: int
    ended: int
    parts: list[_Part]


class _Parts(threading.local):
    """The parts of this thread that belong to no attempt yet."""

    def __init__(self) -> None:
        self.all: list[_Part] = []


def _harmless(method: M) -> M:
    """Return ``method`` with its errors logged, because a failed span must not disturb a mail."""

    @wraps(method)
    def made(*args: Any, **kwargs: Any) -> None:
        try:
            method(*args, **kwargs)
        except Exception as error:
            logger.warning("A span could not be recorded (%s).", type(error).__name__)

    return cast("M", made)


class Traces(instrumentation.Observer):
    """An observer that makes spans.

    ``_parts`` holds the parts of the current attempt of each thread, and ``_tried`` the attempts that are not recorded
    yet.
    """

    def __init__(self) -> None:
        self._parts = _Parts()
        self._tried: dict[str, _Tried] = {}

    @_harmless
    def submitting(self, delivery: Delivery) -> None:
        with _tracer().start_as_current_span(
            f"submit {delivery.priority}", kind=SpanKind.PRODUCER, attributes=_of(delivery, "submit", "send")
        ):
            carrier: dict[str, str] = {}
            _W3C.inject(carrier)
        delivery.traceparent = carrier.get("traceparent", "")

    @_harmless
    def opened(self, relay: Relay, seconds: float, *, succeeded: bool) -> None:
        self._note("connect", seconds, succeeded=succeeded)

    @_harmless
    def transacted(self, relay: Relay, seconds: float) -> None:
        self._note("transaction", seconds)

    def _note(self, name: str, seconds: float, *, succeeded: bool = True) -> None:
        now = time.time_ns()
        # No attempt has this many parts; the rest belong to an attempt that was never recorded.
        del self._parts.all[:-8]
        self._parts.all.append(_Part(name=name, began=now - _nanoseconds(seconds), ended=now, succeeded=succeeded))

    @_harmless
    def tried(self, delivery: Delivery, seconds: float) -> None:
        ended = time.time_ns()
        began = ended - _nanoseconds(seconds)
        # Earlier parts belong to an attempt that was given up.
        parts = [part for part in self._parts.all if part.ended >= began - _LEEWAY]
        self._parts.all.clear()
        while len(self._tried) >= _MOST_UNRECORDED:
            self._tried.pop(next(iter(self._tried)), None)
        self._tried[delivery.pk] = _Tried(began=began, ended=ended, parts=parts)

    @_harmless
    def attempted(self, ended: Ended) -> None:
        delivery, outcome, attempt = ended.delivery, ended.outcome, ended.attempt
        if attempt.duration is None:
            return  # no process saw how the attempt ended
        tried = self._tried.pop(delivery.pk, None)
        if tried is None:
            return
        began, until, parts = tried.began, tried.ended, tried.parts
        here = trace.get_current_span().get_span_context()
        span = _tracer().start_span(
            f"deliver {delivery.priority}",
            context=_W3C.extract({"traceparent": delivery.traceparent}, context.Context()),
            kind=SpanKind.CONSUMER,
            attributes={
                **_of(delivery, "deliver", "process"),
                "email_integration.attempt": delivery.attempts,
                "email_integration.status": str(delivery.status),
                "email_integration.configuration": delivery.smtp_config,
            },
            # The caller's span: Celery's own, if Celery is instrumented.
            links=[Link(here)] if here.is_valid else [],
            start_time=began,
        )
        inner = trace.set_span_in_context(span)
        if not any(part.name == "transaction" for part in parts) and outcome.phase and not outcome.phase.before_mail:
            # The transaction was broken off: it began when the session was open.
            from_when = max([began, *(part.ended for part in parts)])
            parts.append(_Part(name="transaction", began=min(from_when, until), ended=until))
        for part in parts:
            child = _tracer().start_span(
                part.name, context=inner, kind=SpanKind.CLIENT, attributes=_where(ended), start_time=part.began
            )
            if part.name == "transaction" or not part.succeeded:
                _say_how(child, ended)
            child.end(part.ended)
        _say_how(span, ended)
        span.end(until)


def begin() -> None:
    """Start tracing in this process and in the processes that are forked from it."""
    instrumentation.add(Traces())


def _tracer() -> trace.Tracer:
    # Get the tracer on each call: a provider may be set later, for example after a fork.
    return trace.get_tracer("email_integration")


def _of(delivery: Delivery, name: str, kind: str) -> dict[str, str | int]:
    return {
        "messaging.system": "email_integration",
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
        "messaging.destination.name": str(delivery.priority),
        "messaging.message.id": delivery.pk,
        "messaging.message.body.size": delivery.content_size,
    }


def _where(ended: Ended) -> dict[str, str | int]:
    route = ended.attempt.route
    if not isinstance(route, Relay):
        return {}
    return {"server.address": route.host, "server.port": route.port, "network.protocol.name": "smtp"}


def _say_how(span: Span, ended: Ended) -> None:
    """Set the reply, and whether it is an error, as attributes of ``span``."""
    outcome = ended.outcome
    if outcome.code is not None:
        span.set_attribute("email_integration.reply_code", outcome.code)
    enhanced = events.enhanced_code(outcome)
    if enhanced:
        span.set_attribute("email_integration.enhanced_code", enhanced)
    if outcome.phase:
        span.set_attribute("email_integration.phase", str(outcome.phase))
    if not isinstance(outcome, Accepted):
        span.set_attribute("email_integration.cause", outcome.cause.value)
        span.set_attribute("error.type", str(outcome.code or type(outcome).__name__))
        span.set_status(Status(StatusCode.ERROR, outcome.reason))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
