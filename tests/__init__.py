"""The tests. Their services must be there, and named in the environment, before Django reads its settings."""

import sys

# Not for mypy's Django plugin, which imports tests.settings too.
if "pytest" in sys.modules:
    from tests import services

    # With '-n' this process runs no test. Each of the processes that do imports this, and has services of its own.
    if not services.only_hands_out_tests():
        services.start()
