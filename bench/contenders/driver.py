"""Run in a contender's own environment, and execute commands: each is a line of JSON, and so is its answer.

``[name, arguments...]`` calls that function of the module ``PROJECT.sending``, or a function of this module.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time

# The output of print() must not be mixed with the answers.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import django  # noqa: E402

django.setup()
sending = importlib.import_module(f"{os.environ['BENCH_PROJECT']}.sending")


def migrate() -> None:
    from django.core.management import call_command

    call_command("migrate", verbosity=0, interactive=False)
    getattr(sending, "prepare", lambda: None)()


def submit(mails: int, together: int, way: str = "submit_together") -> dict[str, float]:
    """Submit ``mails`` mails, ``together`` at a time by the function ``way``, and return the caller's cost.

    With ``together`` 0, submit them one by one.
    """
    wall, started, cpu = time.time(), time.monotonic(), time.process_time()
    if together:
        for first in range(0, mails, together):
            getattr(sending, way)(range(first, min(first + together, mails)))
    else:
        for number in range(mails):
            sending.submit(number)
    return {
        "wall": wall,
        "started": started,
        "seconds": time.monotonic() - started,
        "cpu": time.process_time() - cpu,
    }


for line in sys.stdin:
    name, *arguments = json.loads(line)
    function = globals().get(name) or getattr(sending, name)
    print(json.dumps(function(*arguments)), file=answers, flush=True)
