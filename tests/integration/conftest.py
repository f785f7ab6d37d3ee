"""Every test here starts with an empty broker and cache, and a process that remembers nothing."""

import pytest


@pytest.fixture(autouse=True)
def _fresh(fresh_process: None) -> None:
    pass
