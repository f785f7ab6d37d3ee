"""The messages in the broker."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from redis import Redis

from config.local.valkey import Valkey
from tests.rabbitmq import RabbitMQ


@dataclass(frozen=True, kw_only=True)
class Message:
    """A task's message: its name, positional arguments, keyword arguments, headers, and the tasks that follow it."""

    task: str
    arguments: list[Any]
    keywords: dict[str, Any]
    headers: dict[str, Any]
    embedded: dict[str, Any]


def messages(broker: Valkey | RabbitMQ, queue: str) -> list[Message]:
    """Return the messages that wait in a queue, oldest first."""
    found = broker.waiting(queue) if isinstance(broker, RabbitMQ) else _in_list(broker, queue)
    return [_message(headers, *json.loads(body)) for headers, body in found]


def _message(headers: dict[str, Any], args: list[Any], kwargs: dict[str, Any], embedded: Any) -> Message:
    return Message(task=headers["task"], arguments=args, keywords=kwargs, headers=headers, embedded=embedded)


def _in_list(valkey: Valkey, queue: str) -> list[tuple[dict[str, Any], bytes | str]]:
    with Redis.from_url(valkey.url) as client:
        found = [json.loads(text) for text in reversed(client.lrange(queue, 0, -1))]
    return [(one["headers"], base64.b64decode(one["body"])) for one in found]
