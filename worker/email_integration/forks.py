"""Functions to call after a fork; nothing on Windows, where processes do not fork."""

from __future__ import annotations

import os
from collections.abc import Callable


def after_fork_in_child(act: Callable[[], object]) -> None:
    """Call ``act`` in each process that is forked from this one, for the lifetime of this process."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=act)
