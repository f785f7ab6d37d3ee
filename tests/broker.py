"""What lies in the broker."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from redis import Redis

from config.local.valkey import Valkey


@dataclass(frozen=True, kw_only=True)
class Message:
    """A task's message: its name, its positional arguments, and its headers."""

    task: str
    arguments: list[Any]
    headers: dict[str, Any]


def messages(valkey: Valkey, queue: str) -> list[Message]:
    """The messages that wait in a queue, oldest first."""
    with Redis.from_url(valkey.url) as client:
        found = [json.loads(text) for text in reversed(client.lrange(queue, 0, -1))]
    return [
        Message(
            task=one["headers"]["task"],
            arguments=json.loads(base64.b64decode(one["body"]))[0],
            headers=one["headers"],
        )
        for one in found
    ]
