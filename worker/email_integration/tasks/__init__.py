"""The Celery door: ``send_email`` takes a mail, ``deliver`` works on one, ``sweep`` finds what is due.

``send_email`` called through ``.delay()`` or ``.apply_async()`` submits in the caller and publishes ``deliver`` under
the same id; run by a worker (``send_task``), eagerly or as a plain function, its body submits. ``deliver`` takes the
delivery's id and nothing else.
"""

from __future__ import annotations

import datetime as dt
import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from celery import Task, shared_task
from celery._state import get_current_worker_task
from celery.exceptions import Ignore, Retry
from celery.result import AsyncResult
from django.db import DatabaseError, InterfaceError
from django.utils import timezone
from kombu.exceptions import OperationalError

from email_integration.delivery import doorbell, ledger
from email_integration.delivery import sweep as sweeping
from email_integration.delivery.attempt import attempt
from email_integration.delivery.compose import Attachment, compose
from email_integration.delivery.outcome import Skipped
from email_integration.delivery.submit import submit
from email_integration.exceptions import DeliveryDeferred, DeliveryFailed, InvalidMail
from email_integration.models import Delivery, Status

from . import canvas, names
from .results import failure_of, summary
from .ringing import CeleryDoorbell

logger = logging.getLogger(__name__)


class DeliveryResult(AsyncResult[Any]):
    """The ``AsyncResult`` of a mail."""

    def revoke(self, *args: Any, **kwargs: Any) -> None:
        """Cancel the delivery in the database, at once; tell the workers only when it was too late for that."""
        if ledger.cancel(self.id) is None:
            super().revoke(*args, **kwargs)


#: Longer than any attempt can take: the timeouts of the dialogue bound it, not the worker's global limits.
_NO_LIMIT = 24 * 3600


class _SendEmail(Task):  # type: ignore[type-arg]  # generic in its stubs; the two would only say Any
    """Submits in the caller instead of publishing the mail."""

    def AsyncResult(self, task_id: str, **kwargs: Any) -> DeliveryResult:  # Celery's name
        return DeliveryResult(task_id, backend=self.backend, app=self.app, task_name=self.name, **kwargs)

    def apply_async(
        self,
        args: Any = None,
        kwargs: Any = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> Any:
        """Submit the mail and return the ``AsyncResult`` of its delivery.

        ``eta``, ``countdown`` (seconds), ``expires`` (seconds or datetime), ``queue``, ``priority``, ``task_id``,
        ``link``, ``link_error`` and everything the canvas passes mean what they mean to Celery. ``producer`` and
        ``connection`` are not used. Raises ``InvalidMail`` for a mail that cannot be sent as given, ``TypeError`` for
        arguments ``send_email`` does not have.
        """
        if self.app.conf.task_always_eager:
            return super().apply_async(args, kwargs, task_id, producer, link, link_error, shadow, **options)
        mail = inspect.signature(self.run).bind(*(args or ()), **(kwargs or {})).arguments
        parent = get_current_worker_task()
        if parent is not None:
            options["root_id"] = options.get("root_id") or parent.request.root_id or parent.request.id
            options["parent_id"] = options.get("parent_id") or parent.request.id
        kept = canvas.keep(options, link=link, link_error=link_error)
        delivery = _submit(
            mail,
            delivery_id=task_id,
            due_at=_due(options.get("eta"), options.get("countdown")),
            expires=options.get("expires"),
            options=kept,
        )
        result = self.AsyncResult(task_id or delivery.pk)
        if result.id != delivery.pk:
            _doorbell.answer(result.id, delivery, kept, repeated)
        if parent is not None and options.get("add_to_parent", True):
            parent.add_trail(result)
        return result


@shared_task(
    bind=True,
    base=_SendEmail,
    name=names.SEND_EMAIL,
    throws=(InvalidMail, DeliveryFailed),
    # Only a call by name (``send_task``) comes here through the broker. Its mail is not in the database yet, and
    # submitting it a second time under the same id changes nothing.
    acks_late=True,
)
def send_email(
    self: Any,
    subject: str,
    body: str,
    from_email: str | None = None,
    to: Sequence[str] = (),
    *,
    cc: Sequence[str] = (),
    bcc: Sequence[str] = (),
    reply_to: Sequence[str] = (),
    html_body: str | None = None,
    attachments: Sequence[Attachment] = (),
    headers: Mapping[str, str] | None = None,
    idempotency_key: str | None = None,
    expires_at: dt.datetime | None = None,
) -> dict[str, Any]:
    """Send a mail through the SMTP configuration that is active when it is sent.

    ``from_email`` left out means the active configuration's sender. ``attachments`` are paths, ``(filename, content,
    mimetype)`` tuples or MIME parts, read at once. ``idempotency_key`` makes the second call with the same key return
    the first delivery. After ``expires_at`` the mail is not sent any more (default: five days, RFC 5321 §4.5.4.1).

    The result is a dictionary of ``id``, ``status``, ``message_id``, ``smtp_config``, ``code`` and ``reason``.
    Raises ``InvalidMail`` in the caller; a mail that ends unaccepted makes ``AsyncResult.get()`` raise
    ``DeliveryFailed``.
    """
    mail = {
        "subject": subject,
        "body": body,
        "from_email": from_email,
        "to": to,
        "cc": cc,
        "bcc": bcc,
        "reply_to": reply_to,
        "html_body": html_body,
        "attachments": attachments,
        "headers": headers,
        "idempotency_key": idempotency_key,
        "expires_at": expires_at,
    }
    request = self.request
    by_worker = not (request.called_directly or request.is_eager)
    try:
        delivery = _submit(
            mail,
            delivery_id=None if request.called_directly else request.id,
            options=canvas.keep_request(request) if by_worker else "",
        )
    except InvalidMail:
        if by_worker:
            raise _without_address() from None
        raise
    if by_worker and delivery.pk == request.id:
        raise Ignore
    delivery.refresh_from_db(fields=["status", "code", "reason", "smtp_config"])
    failure = failure_of(delivery)
    if failure is not None:
        raise failure
    return summary(delivery)


@shared_task(
    bind=True,
    name=names.DELIVER,
    # The result is stored with the outcome, in one commit. Nothing that befalls this task, such as the loss of its
    # process, is the mail's result.
    ignore_result=True,
    store_errors_even_if_ignored=False,
    throws=(DeliveryFailed,),
    acks_late=False,
    track_started=False,
    max_retries=0,
    time_limit=_NO_LIMIT,
    soft_time_limit=_NO_LIMIT,
)
def deliver(self: Any, delivery_id: str) -> dict[str, Any]:
    """Try one delivery once; told nothing but its id."""
    try:
        delivery = attempt(delivery_id)
    except (DatabaseError, InterfaceError) as error:
        logger.error(
            "The database failed during delivery %s (%s); it is rung for again.", delivery_id, type(error).__name__
        )
        raise Ignore from None
    if isinstance(delivery, Skipped):
        logger.debug("Delivery %s: %s", delivery_id, delivery.reason)
        raise Ignore
    if not Status(delivery.status).is_final:
        # To Celery's events and logs it is a retry. Nothing is published: the sweep rings when it is due.
        waiting = DeliveryDeferred(delivery.code, delivery.reason)
        raise Retry(exc=waiting, when=delivery.due_at)
    if not delivery.continued:
        _go_on(self.app, delivery)
    failure = failure_of(delivery)
    if failure is not None:
        raise failure
    return summary(delivery)


def _go_on(app: Any, delivery: Delivery) -> None:
    """Set going what follows a settled mail, later when the broker or the database does not let us now."""
    try:
        try:
            canvas.go_on(app, delivery)
        except _transient_errors(app):
            raise
        except Exception as error:  # what follows is not a task, or does not take what it was given
            logger.error("What follows delivery %s cannot be started (%s).", delivery.pk, type(error).__name__)
            canvas.fail(app, delivery, _without_address() if isinstance(error, InvalidMail) else error)
        ledger.followed_up(delivery.pk)
    except _transient_errors(app) as error:
        logger.error("What follows delivery %s has to wait (%s).", delivery.pk, type(error).__name__)
        ledger.follow_up_later(delivery.pk)
        raise Ignore from None


def _transient_errors(app: Any) -> tuple[type[Exception], ...]:
    of_broker: tuple[type[Exception], ...] = app.connection_for_write().recoverable_connection_errors
    return (OperationalError, OSError, DatabaseError, InterfaceError, *of_broker)


def _without_address() -> InvalidMail:
    """The reason may quote an address, and what a worker raises goes into logs and result rows."""
    return InvalidMail("The mail cannot be sent as it was given; call send_email.delay() to see why.")


@shared_task(name=names.REPEATED, acks_late=False)
def repeated(delivery_id: str) -> dict[str, Any]:
    """Answer for a task id whose mail had been submitted before, under another id."""
    delivery = ledger.load(delivery_id)
    if delivery is None:
        raise DeliveryFailed(None, "the first submission was deleted")
    failure = failure_of(delivery)
    if failure is not None:
        raise failure
    return summary(delivery)


@shared_task(name=names.SWEEP, ignore_result=True, acks_late=False)
def sweep() -> int:
    """Ring for every delivery that is due and that nothing is working on; returns how many."""
    return sweeping.sweep()


def _submit(mail: Mapping[str, Any], *, expires: float | dt.datetime | None = None, **how: Any) -> Delivery:
    """Submit what ``send_email`` was called with; ``expires`` is Celery's."""
    given = dict(mail)
    key, expires_at = given.pop("idempotency_key", None), given.pop("expires_at", None)
    return submit(
        compose(**given),
        idempotency_key=key,
        expires_at=expires_at if expires_at is not None else _moment("expires", expires),
        **how,
    )


def _due(eta: dt.datetime | str | None, countdown: float | None) -> dt.datetime | None:
    if countdown is not None:
        return _from_now("countdown", countdown)
    return _moment("eta", eta)


def _moment(name: str, value: float | dt.datetime | str | None) -> dt.datetime | None:
    """What Celery takes for a moment: a datetime, the same in ISO 8601, or seconds from now."""
    if value is None or isinstance(value, dt.datetime):
        return value
    if isinstance(value, str):
        try:
            return dt.datetime.fromisoformat(value)
        except ValueError:
            raise InvalidMail(f"{name} must be a datetime, in ISO 8601 when it is text, not {value!r}.") from None
    return _from_now(name, value)


def _from_now(name: str, value: float) -> dt.datetime:
    try:
        return timezone.now() + ledger.seconds(float(value))
    except (TypeError, ValueError, OverflowError):  # no number; not a finite one; beyond the year 9999
        raise InvalidMail(f"{name} must be a number of seconds, not {value!r}.") from None


_doorbell = CeleryDoorbell(deliver, sweep)
doorbell.install(_doorbell)

from . import hooks  # noqa: E402, F401  # what the app does by itself in Celery's processes; needs the tasks above
