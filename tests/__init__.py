"""The tests. Start their services, and name them in the environment, before Django reads its settings."""

import sys

# Not for mypy's Django plugin, which imports tests.settings too.
if "pytest" in sys.modules:
    from tests import services

    # With '-n' this process runs no test. Each worker process of pytest-xdist imports this module, and has its own
    # services.
    if not services.only_hands_out_tests():
        services.start()
