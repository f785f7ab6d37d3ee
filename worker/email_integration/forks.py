"""What a process does anew after a fork. Where processes do not fork (Windows), there is nothing to do."""

from __future__ import annotations

import os
from collections.abc import Callable


def after_fork_in_child(act: Callable[[], object]) -> None:
    """Call ``act`` in each process that is forked from this one, for as long as this one lives."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=act)
