"""Celery's canvas around an outbox: what follows a mail is kept in its row and put back when the mail is settled."""

from __future__ import annotations

from typing import Any

from celery.app.task import Context
from kombu.utils.functional import maybe_list
from kombu.utils.json import dumps, loads

#: What is kept: the continuation, where the task belongs, and the way its rings go.
_CONTINUATION = ("link", "link_error", "chain", "chord")
_KEPT = (
    *_CONTINUATION,
    "group_id",
    "group_index",
    "root_id",
    "parent_id",
    "queue",
    "routing_key",
    "exchange",
    "priority",
)


def keep(options: dict[str, Any], *, link: Any = None, link_error: Any = None) -> str:
    """Return the options of an ``apply_async`` call as text for the row; '' when there is nothing to keep."""
    given = {**options, "link": maybe_list(link), "link_error": maybe_list(link_error)}
    kept = {name: given[name] for name in _KEPT if given.get(name) not in (None, [], ())}
    return dumps(kept) if kept else ""


def keep_request(request: Context) -> str:
    """The same for a message that a worker has received."""
    options = {
        "chain": request.chain,
        "chord": request.chord,
        "group_id": request.group,
        "group_index": request.group_index,
        "root_id": request.root_id,
        "parent_id": request.parent_id,
        "priority": (request.delivery_info or {}).get("priority"),
    }
    return keep(options, link=request.callbacks, link_error=request.errbacks)


def as_options(kept: str) -> dict[str, Any]:
    """What ``keep`` kept, as arguments for ``apply_async``."""
    return dict(loads(kept)) if kept else {}


def way(kept: str) -> dict[str, Any]:
    """The part of it that a ring needs: the queue, the priority and the ids of the tree."""
    return {
        name: value
        for name, value in as_options(kept).items()
        if name not in (*_CONTINUATION, "group_id", "group_index")
    }


def follows(kept: str) -> bool:
    """Whether anything is to happen once the mail is settled."""
    return any(name in _CONTINUATION for name in as_options(kept))


def follows_request(request: Context) -> bool:
    """The same for a request that was put back."""
    return bool(request.callbacks or request.errbacks or request.chain or request.chord)


def put_back(request: Context, kept: str) -> None:
    """Give the worker's request the continuation, so that Celery runs it as if the message had carried it."""
    options = as_options(kept)
    if options:
        request.update(
            callbacks=options.get("link"),
            errbacks=options.get("link_error"),
            chain=options.get("chain"),
            chord=options.get("chord"),
            group=options.get("group_id"),
            group_index=options.get("group_index"),
        )
