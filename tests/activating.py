"""Activate configurations at random for a while, as fast as possible; the tests run it as a process.

    python -m tests.activating SECONDS

Prints the number of activations, and of errors by their kind, as JSON.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter

import django


def main() -> None:
    """Print a line when ready, wait for a line on stdin, and print the counts on stdout."""
    django.setup()
    from django.db import connection

    from email_integration.models import SMTPConfig

    names = list(SMTPConfig.objects.values_list("name", flat=True))
    print("ready", flush=True)
    sys.stdin.readline()
    errors: Counter[str] = Counter()
    done, too_many = 0, 0
    end = time.monotonic() + float(sys.argv[1])
    while time.monotonic() < end:
        try:
            _one_of_the_ways(SMTPConfig.objects.get(name=random.choice(names)))
            done += 1
        except Exception as error:
            errors[f"{type(error).__name__}: {error}"] += 1
        too_many += SMTPConfig.objects.filter(is_active=True).count() > 1
    connection.close()
    print(json.dumps({"done": done, "errors": errors, "too_many": too_many}), flush=True)


def _one_of_the_ways(config: object) -> None:
    from email_integration.models import SMTPConfig

    assert isinstance(config, SMTPConfig)
    match random.randrange(5):
        case 0:
            SMTPConfig.objects.all().update(is_active=False)
            config.is_active = True
            config.save()
        case 1:
            SMTPConfig.objects.deactivate()
        case 2:
            config.is_active = True
            config.save()
        case _:
            SMTPConfig.objects.activate(config)


if __name__ == "__main__":
    main()
