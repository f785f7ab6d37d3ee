"""The continuation of a mail: a message to a queue without consumers, so that each continuation can be counted.

A task that a worker runs would not do: a killed worker loses messages of the application, for which Celery is
responsible.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import redis
from celery import Celery
from celery.canvas import Signature

QUEUE = "followed"

#: The name of the task.
FOLLOW = "application.follow"


def follow(app: Celery, tag: str) -> Signature[Any]:
    """Return the continuation of a mail."""
    return app.signature(FOLLOW, kwargs={"tag": tag}, queue=QUEUE)


def followed(url: str, tag: str) -> list[str]:
    """Return the ids of the mails whose continuation was started, one for each time. ``url`` is the broker's."""
    with redis.Redis.from_url(url) as broker:
        messages = broker.lrange(QUEUE, 0, -1)
    calls = [json.loads(base64.b64decode(json.loads(message)["body"])) for message in messages]
    return [args[0]["id"] for args, kwargs, _ in calls if kwargs["tag"] == tag]
