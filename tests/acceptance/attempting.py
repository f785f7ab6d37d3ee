"""Attempt the deliveries whose ids arrive on standard input: a worker's loop without the broker."""

from __future__ import annotations

import sys

import django


def main() -> None:
    """Attempt each delivery once, in order, and report each."""
    django.setup()
    from tests.deliveries import attempt  # the setup must run before the models can be imported

    for line in sys.stdin:
        attempt(line.strip())
        print("attempted", flush=True)


if __name__ == "__main__":
    main()
