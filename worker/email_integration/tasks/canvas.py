"""Celery's canvas around an outbox: a mail's row stores the continuation, which is published when the mail is settled.

``kept`` is always the text in the row's column ``options``.
"""

from __future__ import annotations

import contextlib
import logging
import re
import uuid
from typing import Any

from celery import Celery, Signature
from celery.app.task import Context
from django.db import transaction
from kombu.utils.functional import maybe_list
from kombu.utils.json import dumps, loads

from email_integration.ledger import clock, rows
from email_integration.models import Delivery

from . import names
from .results import failure_of, is_beside_deliveries, summary

logger = logging.getLogger(__name__)

#: The stored options: the continuation, the position of the task in its canvas, and Celery's priority number.
_CONTINUATION = ("link", "link_error", "chain", "chord")
_TREE = ("root_id", "parent_id")
_GROUP = ("group_id", "group_index")
_KEPT = ("task_id", "ignore_result", *_CONTINUATION, *_TREE, *_GROUP, "priority")

_MAY_FOLLOW = re.compile("|".join(f'"{name}"' for name in _CONTINUATION))

#: The options of a mail whose result is ignored.
NO_RESULT = dumps({"ignore_result": True})

#: The options of a prepared mail that has not been called yet.
UNCALLED = dumps({"called": False})


def keep(options: dict[str, Any], *, task_id: str | None = None, link: Any = None, link_error: Any = None) -> str:
    """Return the options of an ``apply_async`` call as text for the row; '' when there is nothing to store.

    ``task_id`` is given only when it differs from the delivery's id. ``link`` and ``link_error`` are Celery's.
    """
    if not (options or task_id or link or link_error):
        return ""  # as for most mails
    given = {**options, "task_id": task_id, "link": maybe_list(link), "link_error": maybe_list(link_error)}
    given["ignore_result"] = options.get("ignore_result") or None  # the result is stored unless the caller ignores it
    kept = {name: given[name] for name in _KEPT if given.get(name) not in (None, [], ())}
    return dumps(kept) if kept else ""


def keep_request(request: Context, *, task_id: str | None = None) -> str:
    """Return the options of a message that a worker has received, in the form of ``keep``."""
    options = {
        "chain": request.chain,
        "chord": request.chord,
        "group_id": request.group,
        "group_index": request.group_index,
        "root_id": request.root_id,
        "parent_id": request.parent_id,
        "priority": (request.delivery_info or {}).get("priority"),
        "ignore_result": request.ignore_result,
    }
    return keep(options, task_id=task_id, link=request.callbacks, link_error=request.errbacks)


def as_options(kept: str) -> dict[str, Any]:
    """Return the stored options as arguments for ``apply_async``. Damaged options in the database count as none."""
    try:
        return dict(loads(kept)) if kept else {}
    except (ValueError, TypeError) as error:
        logger.error("The stored continuation of a delivery cannot be read (%s).", type(error).__name__)
        return {}


def message_priority_of(kept: str) -> int | None:
    """Return the priority number that ``apply_async`` was given; None if there is none."""
    # Most rows store no options, and few of the others a priority.
    found = as_options(kept).get("priority") if '"priority"' in kept else None
    return found if is_message_priority(found) else None  # it may be damaged in the database


def is_message_priority(value: object) -> bool:
    """Return whether brokers accept the value as a message's priority: a number of one octet (AMQP)."""
    return isinstance(value, int) and 0 <= value <= 255


def is_in_chord(kept: str) -> bool:
    """Return whether the mail is a part of a chord."""
    return bool(knows_chord(kept) and as_options(kept).get("chord"))


def knows_chord(kept: str) -> bool:
    """Return whether the continuation may contain a chord: one that the mail, or a later step, is a part of."""
    return '"chord"' in kept


def begins_parts_elsewhere(kept: str) -> bool:
    """Return whether the mail's end starts a chord with a part that is not a mail and that any worker may run."""
    options = as_options(kept)
    first = [*(maybe_list(options.get("link")) or ()), *(maybe_list(options.get("chain")) or ())[-1:]]
    return any(map(_begins_parts_elsewhere, first))


def _begins_parts_elsewhere(signature: Any, *, is_part: bool = False) -> bool:
    if not isinstance(signature, dict):
        return False  # damaged in the database
    kind, inner = str(signature.get("subtask_type")), signature.get("kwargs")
    if kind not in _PARTS or not isinstance(inner, dict):
        return is_part and signature.get("task") not in (names.SEND_EMAIL, names.SEND_PREPARED)
    begun = inner.get(_PARTS[kind][0])
    if isinstance(begun, dict):
        return _begins_parts_elsewhere(begun, is_part=True)  # a header that is stored as a group
    begun = (maybe_list(begun) or ())[: 1 if kind == "chain" else None]
    return any(_begins_parts_elsewhere(one, is_part=is_part or kind == "chord") for one in begun)


def follows(kept: str) -> bool:
    """Return whether the mail has a continuation."""
    # A text search answers this for most rows without parsing them.
    return bool(_MAY_FOLLOW.search(kept)) and any(name in _CONTINUATION for name in as_options(kept))


def ignores_result(kept: str) -> bool:
    """Return whether the result of the mail is not to be stored."""
    return kept == NO_RESULT or ('"ignore_result"' in kept and bool(as_options(kept).get("ignore_result")))


def task_id_of(delivery: Delivery) -> str:
    """Return the id under which the mail was called: the delivery's id, unless the mail was prepared."""
    kept = delivery.options
    return str((as_options(kept).get("task_id") if '"task_id"' in kept else None) or delivery.pk)


def request_of(delivery: Delivery) -> Context:
    """Return the request that Celery would have if its message had carried the mail."""
    options = as_options(delivery.options)
    return Context(
        id=task_id_of(delivery),
        task=names.SEND_EMAIL,
        callbacks=options.get("link"),
        errbacks=options.get("link_error"),
        chain=options.get("chain"),
        chord=options.get("chord"),
        group=options.get("group_id"),
        group_index=options.get("group_index"),
        root_id=options.get("root_id"),
        parent_id=options.get("parent_id"),
        delivery_info={"priority": options.get("priority")},
    )


def go_on(app: Celery, delivery: Delivery) -> None:
    """Publish the continuation of a settled mail, as Celery's tracer does after a task. The ids are the same each time.

    Raises the errors of the broker and the result backend.
    """
    request: Any = request_of(delivery)  # its stubs type every attribute as text
    _name_all(request)
    failure = failure_of(delivery)
    if failure is not None:
        fail(app, request, failure)
        return
    value = summary(delivery)
    inherited: dict[str, Any] = {"parent_id": request.id, "root_id": request.root_id or request.id}
    if app.conf.task_inherit_parent_priority:
        inherited["priority"] = request.delivery_info["priority"]
    is_apart = not is_beside_deliveries(app.backend)
    with _as_a_whole() if is_apart and knows_chord(delivery.options) else contextlib.nullcontext():
        for callback in request.callbacks or ():
            request.children.append(app.signature(callback).apply_async((value,), **inherited))
        if request.chain:
            *later, next_step = request.chain
            request.children.append(app.signature(next_step).apply_async((value,), chain=later, **inherited))
    if request.chord and is_apart:
        request.chord = _begun_as_a_whole(app.signature(request.chord))
    elif _begins_parts_elsewhere(request.chord) and request.chord["subtask_type"] != "group":
        request.chord = _left_to_follow(app.signature(request.chord), delivery)
    # The result is already stored; this adds its children, and counts the mail in its chord.
    app.backend.mark_as_done(request.id, value, request)


def _as_a_whole() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which mails are submitted all or none, so that no chord is started partially."""
    return transaction.atomic(using=rows.database())


def _begun_as_a_whole(body: Signature[Any]) -> Signature[Any]:
    """Return a chord's body whose mails are committed before the result backend notes that the body is published."""
    publish = body.delay

    def delay(*args: Any, **kwargs: Any) -> Any:
        with _as_a_whole():
            return publish(*args, **kwargs)

    body.delay = delay  # type: ignore[method-assign]
    return body


def _left_to_follow(body: Signature[Any], delivery: Delivery) -> Signature[Any]:
    """Return a chord's body that becomes the mail's continuation instead of being published with the last part."""

    def delay(results: Any) -> None:
        counted = (*_CONTINUATION, *_GROUP)
        kept = {name: value for name, value in as_options(delivery.options).items() if name not in counted}
        delivery.options = dumps(kept | {"link": [{**body.clone((results,)), "immutable": True}]})

    body.delay = delay  # type: ignore[method-assign,assignment]
    return body


#: Namespace of the ids of tasks that follow mails. Changing it would run tasks in progress again.
_NAMESPACE = uuid.UUID("6f1c8a54-1d0f-4f0a-9a35-0b8f6f7f5c1e")


def _name_all(request: Any) -> None:
    """Give each task of the continuation an id, derived from the mail's id and the task's position, unless it has one.

    A worker that is killed after publishing leaves no record of it. With the derived id, a task that is published again
    is the same task, and a mail that is submitted again is the same mail. The ids of groups and chords also contain the
    time, so a later start of a chord can be recognized. Backends count the parts of a chord under its id, and would
    otherwise continue the first count.
    """
    begun = int(clock.now().timestamp() * 1_000_000)
    for place, found in (
        ("link", request.callbacks),
        ("link_error", request.errbacks),
        ("chain", request.chain),
        ("chord", request.chord),
    ):
        for number, signature in enumerate(maybe_list(found) or ()):
            _name(signature, f"{request.id}/{place}/{number}", begun)


def _name(signature: Any, place: str, begun: int) -> None:
    if not isinstance(signature, dict):
        return  # damaged in the database; Celery reports it
    options, arguments = signature.get("options"), signature.get("kwargs")
    if not isinstance(options, dict):
        options = signature["options"] = {}
    inner: dict[str, Any] = {name: options.get(name) for name in ("link", "link_error", "chord")}
    parts = _PARTS.get(str(signature.get("subtask_type")), ())
    if parts and isinstance(arguments, dict):
        inner |= {name: arguments.get(name) for name in parts}
        if signature["subtask_type"] != "chain":
            options["task_id"] = f"{uuid.uuid5(_NAMESPACE, place)}.{begun}"
    elif not options.get("task_id"):
        options["task_id"] = str(uuid.uuid5(_NAMESPACE, place))
    for name, found in inner.items():
        for number, part in enumerate(maybe_list(found) or ()):
            _name(part, f"{place}/{name}/{number}", begun)


#: Where signatures of several tasks contain them, by Celery's name for the kind.
_PARTS = {"group": ("tasks",), "chain": ("tasks",), "chord": ("header", "body")}


#: The ids that this module gives to groups and chords: which one it is, and when it was started.
_BEGUN = re.compile(r'"([0-9a-f-]{36})\.([0-9]+)"')


def is_begun_later(kept: str, than: str) -> bool:
    """Return whether two calls of a mail belong to one chord after another mail.

    ``kept`` must belong to a later start of the chord than ``than``.
    """
    later, earlier = ({one: int(begun) for one, begun in _BEGUN.findall(text)} for text in (kept, than))
    if not earlier or not earlier.keys() <= later.keys():
        return False
    ahead = [later[one] - earlier[one] for one in earlier]
    return min(ahead) >= 0 < max(ahead)


def without_callbacks(kept: str) -> str:
    """Return the options without ``link`` and ``link_error``."""
    return dumps({name: value for name, value in as_options(kept).items() if name not in ("link", "link_error")})


def fail(app: Celery, request: Any, error: Exception) -> None:
    """Fail the continuation of ``request`` with ``error``: call ``link_error``, and fail the chain and the chord."""
    for step in maybe_list(request.chain) or ():
        _forget(app, step)
    app.backend.mark_as_failure(request.id, error, request=request)


def _forget(app: Celery, step: Any) -> None:
    """Forget the result of later steps of a chain. Celery does not count a failed step in a chord."""
    while isinstance(step, dict):
        options, arguments = step.get("options"), step.get("kwargs")
        if isinstance(options, dict) and "chord" in options and options.get("task_id"):
            with contextlib.suppress(NotImplementedError):  # some backends cannot
                app.backend.forget(str(options["task_id"]))
        step = arguments.get("body") if isinstance(arguments, dict) and step.get("subtask_type") == "chord" else None
