"""Celery's canvas around an outbox: what follows a mail is kept in its row and published when the mail is settled."""

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

#: What is kept: the continuation, where the task belongs, and Celery's number.
_CONTINUATION = ("link", "link_error", "chain", "chord")
_TREE = ("root_id", "parent_id")
_GROUP = ("group_id", "group_index")
_KEPT = ("task_id", "ignore_result", *_CONTINUATION, *_TREE, *_GROUP, "priority")

_MAY_FOLLOW = re.compile("|".join(f'"{name}"' for name in _CONTINUATION))

#: What a mail has whose result nobody asks for.
NO_RESULT = dumps({"ignore_result": True})

#: What a prepared mail has in the place of options: nobody has called it yet.
UNCALLED = dumps({"called": False})


def keep(options: dict[str, Any], *, task_id: str | None = None, link: Any = None, link_error: Any = None) -> str:
    """Return the options of an ``apply_async`` call as text for the row; '' when there is nothing to keep.

    ``task_id`` is given when it is not the delivery's.
    """
    if not (options or task_id or link or link_error):
        return ""  # as for most
    given = {**options, "task_id": task_id, "link": maybe_list(link), "link_error": maybe_list(link_error)}
    given["ignore_result"] = options.get("ignore_result") or None  # the mail's result is kept unless it says so
    kept = {name: given[name] for name in _KEPT if given.get(name) not in (None, [], ())}
    return dumps(kept) if kept else ""


def keep_request(request: Context, *, task_id: str | None = None) -> str:
    """The same for a message that a worker has received."""
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
    """What ``keep`` kept, as arguments for ``apply_async``; nothing of what somebody has damaged in the database."""
    try:
        return dict(loads(kept)) if kept else {}
    except (ValueError, TypeError) as error:
        logger.error("What should follow a delivery cannot be read (%s).", type(error).__name__)
        return {}


def message_priority_of(kept: str) -> int | None:
    """The number that ``apply_async`` was given, None for none."""
    # Most rows keep nothing, and few of the others this.
    found = as_options(kept).get("priority") if '"priority"' in kept else None
    return found if is_message_priority(found) else None  # somebody may have damaged it in the database


def is_message_priority(value: object) -> bool:
    """Whether brokers take it for a message's priority: a number of one octet (AMQP)."""
    return isinstance(value, int) and 0 <= value <= 255


def is_in_chord(kept: str) -> bool:
    """Whether the mail is a part of a chord."""
    return bool(knows_chord(kept) and as_options(kept).get("chord"))


def knows_chord(kept: str) -> bool:
    """Whether there may be a chord in what follows the mail: one that it is a part of, or that a later step is."""
    return '"chord"' in kept


def begins_parts_elsewhere(kept: str) -> bool:
    """Whether a chord begins with the mail's end of which a part is a task for any worker, not a mail."""
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
        return _begins_parts_elsewhere(begun, is_part=True)  # a header that is kept as a group
    begun = (maybe_list(begun) or ())[: 1 if kind == "chain" else None]
    return any(_begins_parts_elsewhere(one, is_part=is_part or kind == "chord") for one in begun)


def follows(kept: str) -> bool:
    """Whether anything is to happen once the mail is settled."""
    # Of most rows this is known without reading what they keep.
    return bool(_MAY_FOLLOW.search(kept)) and any(name in _CONTINUATION for name in as_options(kept))


def ignores_result(kept: str) -> bool:
    """Whether the result of the mail is not to be stored."""
    return kept == NO_RESULT or ('"ignore_result"' in kept and bool(as_options(kept).get("ignore_result")))


def task_id_of(delivery: Delivery) -> str:
    """The id under which the mail was called: the delivery's own, unless it was prepared."""
    kept = delivery.options
    return str((as_options(kept).get("task_id") if '"task_id"' in kept else None) or delivery.pk)


def request_of(delivery: Delivery) -> Context:
    """The request Celery would have had for the mail, had its message carried everything."""
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
    """Publish what follows a settled mail, as Celery's tracer does after a task; each time under the same ids.

    Raises what the broker and the result backend raise.
    """
    request: Any = request_of(delivery)  # its stubs take every attribute for text
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
    # The result is there already; this adds its children, and counts the mail in its chord.
    app.backend.mark_as_done(request.id, value, request)


def _as_a_whole() -> contextlib.AbstractContextManager[Any]:
    """Within, mails are submitted all or none, so that no chord of them is begun by half."""
    return transaction.atomic(using=rows.database())


def _begun_as_a_whole(body: Signature[Any]) -> Signature[Any]:
    """The body of a chord, whose mails are committed before the result backend notes that it has published it."""
    publish = body.delay

    def delay(*args: Any, **kwargs: Any) -> Any:
        with _as_a_whole():
            return publish(*args, **kwargs)

    body.delay = delay  # type: ignore[method-assign]
    return body


def _left_to_follow(body: Signature[Any], delivery: Delivery) -> Signature[Any]:
    """The body of a chord, which follows the mail when the last part is counted, and is not published before."""

    def delay(results: Any) -> None:
        counted = (*_CONTINUATION, *_GROUP)
        kept = {name: value for name, value in as_options(delivery.options).items() if name not in counted}
        delivery.options = dumps(kept | {"link": [{**body.clone((results,)), "immutable": True}]})

    body.delay = delay  # type: ignore[method-assign,assignment]
    return body


#: Of the ids of tasks that follow mails; changing it would have those under way run once more.
_NAMESPACE = uuid.UUID("6f1c8a54-1d0f-4f0a-9a35-0b8f6f7f5c1e")


def _name_all(request: Any) -> None:
    """Give each task that follows an id, made of the mail's and of its place, unless it has one.

    A worker that is killed after publishing leaves no trace of it. What is published again is the same task then, and
    where it is a mail, it is the same mail. Groups and chords have the time beside that, by which a later beginning of
    one is known: backends count the parts of a chord under its id, and would go on from the first count.
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
        return  # damaged in the database; Celery says so
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


#: Where signatures of several tasks have them, by Celery's name for the kind.
_PARTS = {"group": ("tasks",), "chain": ("tasks",), "chord": ("header", "body")}


#: The ids that groups and chords are given here: of which one it is, and when it was begun.
_BEGUN = re.compile(r'"([0-9a-f-]{36})\.([0-9]+)"')


def is_begun_later(kept: str, than: str) -> bool:
    """Whether two calls of a mail are of the same chord behind another mail, and the first of a later beginning."""
    later, earlier = ({one: int(begun) for one, begun in _BEGUN.findall(text)} for text in (kept, than))
    if not earlier or not earlier.keys() <= later.keys():
        return False
    ahead = [later[one] - earlier[one] for one in earlier]
    return min(ahead) >= 0 < max(ahead)


def without_callbacks(kept: str) -> str:
    """The same without ``link`` and ``link_error``."""
    return dumps({name: value for name, value in as_options(kept).items() if name not in ("link", "link_error")})


def fail(app: Celery, request: Any, error: Exception) -> None:
    """Let ``error`` be the end of what follows: ``link_error`` is called, the chain and the chord are told."""
    for step in maybe_list(request.chain) or ():
        _forget(app, step)
    app.backend.mark_as_failure(request.id, error, request=request)


def _forget(app: Celery, step: Any) -> None:
    """Forget how a later step of a chain ended: Celery does not count one in a chord that it finds failed."""
    while isinstance(step, dict):
        options, arguments = step.get("options"), step.get("kwargs")
        if isinstance(options, dict) and "chord" in options and options.get("task_id"):
            with contextlib.suppress(NotImplementedError):  # a few backends can not
                app.backend.forget(str(options["task_id"]))
        step = arguments.get("body") if isinstance(arguments, dict) and step.get("subtask_type") == "chord" else None
