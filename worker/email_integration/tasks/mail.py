"""The tasks of a mail: ``send_email`` submits a mail, ``dispatch`` sends waiting mail, ``sweep`` finds due mail.

``send_email`` called through ``.delay()`` or ``.apply_async()`` submits in the caller and wakes a worker. When a worker
runs it (``send_task``), in eager mode or as a plain function, its body submits. ``send_prepared`` does the same with a
mail that ``send_email.prepare()`` has submitted before. ``dispatch`` gets a queue and no mail.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from celery import Signature, shared_task
from celery.exceptions import Ignore
from celery.utils import uuid

from email_integration import recursion
from email_integration.async_safety import sync_only
from email_integration.exceptions import DeliveryFailed, InvalidMail
from email_integration.ledger import instrumentation, rows, task_queue, transitions
from email_integration.message.composition import Attachment, compose
from email_integration.message.options import MailKeywords, MailOptions, with_options_listed
from email_integration.models import Delivery, Priority
from email_integration.queue import sweeper, wakeups
from email_integration.queue.submission import build_delivery, check_name, store
from email_integration.timezones import aware

from . import canvas, names, places
from .outbox import Call, OutboxTask, moment
from .results import failure_of, summary
from .wake_ups import CeleryTaskQueue, follow_anew, without_address

#: Longer than any mail can take: the timeouts of the SMTP dialogue limit it, and not the worker's global limits.
_NO_LIMIT = 24 * 3600


class _SendEmail(OutboxTask):
    """Submits the mail in the caller instead of publishing it."""

    def take(self, arguments: Mapping[str, Any], call: Call) -> tuple[str, str]:
        kept, queue = call.kept(), call.queue
        delivery = _submit(arguments, _options(arguments, call), delivery_id=call.task_id, kept=kept, queue=queue)
        task_id = call.task_id or delivery.pk
        if task_id != delivery.pk:
            _task_queue.answer(task_id, delivery, kept, repeated, queue=queue)
        return task_id, delivery.pk

    @sync_only("send_email.prepare()", instead="sync_to_async(send_email.prepare)()")
    def prepare(self, *args: Any, **kwargs: Any) -> Signature[Any]:
        """Submit the mail now, in the current transaction. It is sent when the returned signature is run.

        The arguments are those of ``send_email``. The signature contains only the delivery's id,
        ``signature.kwargs["delivery_id"]``, and ``due_at``, before which the mail is not sent; an ``eta`` or
        ``countdown`` of the signature replaces it. It ignores the result of the previous task, and can be used wherever
        a signature of
        ``send_email`` can: the next step of a chain, a group or a chord runs after the mail is accepted. A mail whose
        signature is never run expires like any other, and can be cancelled. Raises the errors of
        ``send_email.delay()``.
        """
        mail = self.parameters.bind(*args, **kwargs).arguments
        options = _options(mail)
        delivery = _submit(mail, options, kept=canvas.UNCALLED, prepared=True)
        due_at = {"due_at": aware(options.due_at).isoformat()} if options.due_at else {}
        signature: Signature[Any] = send_prepared.si(delivery_id=delivery.pk, **due_at)
        return signature


@shared_task(
    bind=True,
    base=_SendEmail,
    name=names.SEND_EMAIL,
    throws=(InvalidMail, DeliveryFailed),
    # Only a call by name (``send_task``) comes here through the broker. Its mail is not in the database yet, and
    # submitting it again under the same id changes nothing.
    acks_late=True,
)
@with_options_listed
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
    **options: Unpack[MailKeywords],
) -> dict[str, Any]:
    """Send a mail through the SMTP configuration that is active when it is sent.

    ``body`` is the plain text, and ``html_body`` an HTML alternative to it. Without ``from_email`` the sender is that
    of the active configuration. ``to``, ``cc``, ``bcc`` and ``reply_to`` are lists of addresses. ``attachments`` are
    paths, ``(filename, content, mimetype)`` tuples or MIME parts, and are read immediately. ``headers`` are further
    headers by name. A second call with the same ``idempotency_key`` returns the first delivery. ``options`` are those
    of ``MailOptions``; ``eta``, ``countdown`` and ``expires`` of ``apply_async()`` replace ``due_at`` and
    ``expires_at`` if these are missing.

    The result is a dictionary of ``id``, ``status``, ``message_id``, ``smtp_config``, ``code`` and ``reason``. Raises
    ``InvalidMail`` in the caller. ``AsyncResult.get()`` raises ``DeliveryFailed`` for a mail that ends without being
    accepted.
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
        **options,
    }
    request = self.request
    by_worker = _is_by_worker(request)
    try:
        delivery = _submit(
            mail,
            _options(mail),
            delivery_id=None if request.called_directly else request.id,
            kept=canvas.keep_request(request) if by_worker else "",
        )
    except InvalidMail:
        if by_worker:
            raise without_address() from None
        raise
    if by_worker and delivery.pk == request.id:
        raise Ignore
    return _as_it_stands(delivery)


class _SendPrepared(OutboxTask):
    """Sends the prepared mail in the caller instead of publishing a task for it."""

    def take(self, arguments: Mapping[str, Any], call: Call) -> tuple[str, str] | None:
        task_id = call.task_id or uuid()
        check_name("task_id", task_id)
        kept, queue = call.kept(task_id), call.queue
        due_at = call.due_at or moment("due_at", arguments.get("due_at"))
        delivery = _send_prepared(
            arguments["delivery_id"],
            task_id=task_id,
            kept=kept,
            queue=queue,
            due_at=due_at,
            expires_at=call.expires_at,
        )
        if delivery is None:
            return None  # published, and fails in a worker: its callbacks must not run here
        if canvas.task_id_of(delivery) != task_id:
            _task_queue.answer(task_id, delivery, kept, repeated, queue=queue)
        return task_id, delivery.pk


@shared_task(
    bind=True,
    base=_SendPrepared,
    name=names.SEND_PREPARED,
    throws=(DeliveryFailed,),
    acks_late=True,  # a repeated run changes nothing
)
def send_prepared(self: Any, delivery_id: str, due_at: str | None = None) -> dict[str, Any]:
    """Send the mail that ``send_email.prepare()`` has submitted, not before ``due_at`` (ISO 8601).

    Another run under the same id changes nothing. A run under another id returns the mail's current result. Raises
    ``DeliveryFailed`` when there is no such mail.
    """
    request = self.request
    by_worker = _is_by_worker(request)
    kept = canvas.keep_request(request, task_id=request.id) if by_worker else ""
    not_before = moment("due_at", None if request.eta else due_at)
    delivery = _send_prepared(delivery_id, task_id=request.id, kept=kept, due_at=not_before)
    if delivery is None:
        reason = "the prepared mail is not in the database: it was rolled back, is not committed yet, or was deleted"
        raise DeliveryFailed(None, reason)
    if by_worker and canvas.task_id_of(delivery) == request.id:
        raise Ignore
    return _as_it_stands(delivery)


def _send_prepared(delivery_id: str, *, task_id: str | None, kept: str, **how: Any) -> Delivery | None:
    """Send the mail unless it was called before. Return it; None if it does not exist."""
    delivery = rows.load(delivery_id)
    while delivery is not None and delivery.options == canvas.UNCALLED:
        if transitions.send_prepared(delivery, kept=kept, **how):
            break
        delivery = rows.load(delivery_id)  # it has moved meanwhile
    if delivery is not None and canvas.task_id_of(delivery) == task_id:
        follow_anew(delivery, kept)
    return delivery


def _is_by_worker(request: Any) -> bool:
    """Return whether a message started the task, so that this app must store its continuation."""
    return not (request.called_directly or request.is_eager)


def _as_it_stands(delivery: Delivery) -> dict[str, Any]:
    """Return the mail's current state as the result of a call. Raises ``DeliveryFailed`` for a mail that has failed."""
    delivery.refresh_from_db(fields=["status", "code", "reason", "smtp_config"])
    failure = failure_of(delivery)
    if failure is not None:
        raise failure
    return summary(delivery)


@shared_task(
    bind=True,
    name=names.DISPATCH,
    # The result of a mail is stored in the commit of its outcome. A failure of this task, such as the loss of its
    # process, is not the result of a mail.
    ignore_result=True,
    store_errors_even_if_ignored=False,
    acks_late=False,
    track_started=False,
    max_retries=0,
    time_limit=_NO_LIMIT,
    soft_time_limit=_NO_LIMIT,
)
@recursion.within_attempts()
def dispatch(self: Any, queue: str, joins: bool = False) -> dict[str, int]:
    """Send the mail that waits in a queue. ``queue`` '' is the queue that Celery chooses.

    Return the number of deliveries by final status. ``joins`` means that other dispatchers were at work when this
    wake-up was published; they may publish another one from now on.
    """
    if joins:
        wakeups.joined(queue)
    # Imported only where mail is sent, because it opens a journal.
    from email_integration.sending import dispatcher

    if self.request.is_eager:  # in the caller's thread: other threads do not see its transaction
        return Counter(str(one.current_status) for one in dispatcher.send_inline(queue))
    send = functools.partial(dispatcher.dispatch, along=(Priority.HIGH,) if places.serves_urgent() else ())
    return places.dispatch(queue, send)


@shared_task(name=names.REPEATED, acks_late=False)
def repeated(delivery_id: str) -> dict[str, Any]:
    """Return the result for a task id whose mail had been submitted before under another id.

    Raises ``DeliveryFailed`` for a mail that has failed or was deleted.
    """
    delivery = rows.load(delivery_id)
    if delivery is None:
        raise DeliveryFailed(None, "the first submission was deleted")
    failure = failure_of(delivery)
    if failure is not None:
        raise failure
    return summary(delivery)


@shared_task(name=names.SWEEP, ignore_result=True, acks_late=False)
def sweep() -> int:
    """Wake each queue with due mail that no worker is sending, and return how many were woken."""
    # The import registers recovery, which each sweep runs first. Only where mail is sent.
    from email_integration.sending import recovery  # noqa: F401

    began = time.monotonic()
    woken = sweeper.sweep()
    instrumentation.installed().sweep_ended(time.monotonic() - began, woken)
    return woken


def _options(arguments: Mapping[str, Any], call: Call | None = None) -> MailOptions:
    """Return the options among the arguments of ``send_email``, with the times of ``call`` as defaults."""
    given = {name: arguments[name] for name in MailKeywords.__annotations__ if name in arguments}
    if call is not None:
        for name, time_of_call in (("due_at", call.due_at), ("expires_at", call.expires_at)):
            if time_of_call is not None and given.get(name) is None:
                given[name] = time_of_call
    return MailOptions(**given) if given else _USUAL


#: The options of most mails.
_USUAL = MailOptions()


@sync_only("Submitting a mail", instead="email_integration.asend_email()")
def _submit(
    arguments: Mapping[str, Any], options: MailOptions, *, delivery_id: str | None = None, **how: Any
) -> Delivery:
    """Submit a mail with the arguments of ``send_email``."""
    given = {name: value for name, value in arguments.items() if name not in MailKeywords.__annotations__}
    key = given.pop("idempotency_key", None)
    made = build_delivery(compose(**given), options, delivery_id=delivery_id, idempotency_key=key, **how)
    delivery = store(made, unless_known=delivery_id is not None)
    if delivery is not made and delivery.pk == delivery_id:
        follow_anew(delivery, made.options)
    return delivery


_task_queue = CeleryTaskQueue(dispatch, sweep)
task_queue.install(_task_queue)
