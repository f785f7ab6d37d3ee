"""Attempts the deliveries whose ids come on standard input: a worker's loop without the broker."""

from __future__ import annotations

import sys

import django


def main() -> None:
    """Attempt each delivery once, in order, and say so."""
    django.setup()
    from tests.deliveries import attempt  # models, which the setup makes

    for line in sys.stdin:
        attempt(line.strip())
        print("attempted", flush=True)


if __name__ == "__main__":
    main()
