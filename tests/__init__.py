"""The tests. Their services must be there, and named in the environment, before Django reads its settings."""

import sys

# Not for mypy's Django plugin, which imports tests.settings too.
if "pytest" in sys.modules:
    from tests import services

    services.start()
