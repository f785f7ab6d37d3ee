"""Named points during sending, where a test stops its process or lets another one run first."""

from __future__ import annotations

from collections.abc import Callable

#: Called with the name of each point that is reached and the ids of the deliveries. Only tests set it.
hook: Callable[..., object] | None = None


def reached(name: str, *delivery_ids: str) -> None:
    """Report that a point is reached."""
    if hook is not None:
        hook(name, *delivery_ids)
