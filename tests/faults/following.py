"""What follows a mail: a message to a queue that nobody consumes, so that each time it was set going can be counted.

A task that a worker runs would not do: the worker's death loses messages of the application, for which Celery answers.
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
    """What is to follow a mail."""
    return app.signature(FOLLOW, kwargs={"tag": tag}, queue=QUEUE)


def followed(url: str, tag: str) -> list[str]:
    """The ids of the mails whose continuation was set going, one for each time; ``url`` is the broker's."""
    with redis.Redis.from_url(url) as broker:
        messages = broker.lrange(QUEUE, 0, -1)
    calls = [json.loads(base64.b64decode(json.loads(message)["body"])) for message in messages]
    return [args[0]["id"] for args, kwargs, _ in calls if kwargs["tag"] == tag]
