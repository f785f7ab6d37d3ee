"""Named points on a mail's way at which a test stops its process, or lets another go first."""

from __future__ import annotations

from collections.abc import Callable

#: Called with the name of each point that is reached and the ids of the deliveries; set by tests alone.
hook: Callable[..., object] | None = None


def reached(name: str, *delivery_ids: str) -> None:
    """A point is reached."""
    if hook is not None:
        hook(name, *delivery_ids)
