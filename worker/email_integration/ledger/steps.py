"""Transitions before they are stored: the instance is changed first, and restored if the transition fails."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import models

from email_integration.message import content
from email_integration.models import Delivery, Status
from email_integration.on_commit import Act


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row to insert: ``values`` by the names of the columns' fields.

    With ``unique``, the name of a field, an existing row with the same value there is overwritten, except for ``kept``.
    """

    model: type[models.Model]
    values: Mapping[str, Any] = field(repr=False)
    unique: str = ""
    kept: Collection[str] = ()


class Step:
    """A transition that is already in the instance, but not yet in the database.

    - ``values``: the changed fields. They are written only if the status is in ``among`` and not in ``not_among``
      (unless these are empty), and neither the version nor the batch has changed. A delivery is no longer claimed after
      its step is made.
    - ``rows``: returns further rows, which are written only if the step is made. It is called after the instance is
      changed.
    - ``store_result``: whether the result is stored.
    - ``emit``: called with the delivery after the step is made, and before the commit if there is a transaction. It
      returns the acts to do after the commit.
    """

    def __init__(
        self,
        delivery: Delivery,
        values: Mapping[str, Any],
        *,
        rows: Callable[[], Iterable[Row]] = tuple,
        store_result: bool = False,
        among: Collection[Status] = (),
        not_among: Collection[Status] = (),
        emit: Callable[[Delivery], Sequence[Act]] | None = None,
    ) -> None:
        self.delivery = delivery
        self.version, self.batch = delivery.version, delivery.batch
        self.values = {**values, "batch": ""} if self.batch else values
        self.stores_result = store_result
        self.among, self.not_among = among, not_among
        self._before = dict(delivery.__dict__)
        self._emit = emit
        try:
            delivery.__dict__.update(self.values, version=self.version + 1)
            self.rows = tuple(rows())
        except BaseException:
            self.undo()
            raise

    def made(self) -> list[Act]:
        """Report that the step is made. Return the acts to do after the commit."""
        acts: list[Act] = []
        file = self._before.get("content_file")
        if file and not self.delivery.content_file:
            acts.append(("delete stored content", functools.partial(content.remove_file, file)))
        if self._emit is not None:
            acts += self._emit(self.delivery)
        return acts

    def undo(self) -> None:
        """Restore the instance, so that the step can be tried again."""
        _restore(self.delivery, self._before)


#: Creates a step from the current state of a delivery.
Maker = Callable[[Delivery], Step]


@contextlib.contextmanager
def undone_on_error() -> Iterator[list[Step]]:
    """Yield a list for steps, which are undone if the block raises."""
    steps: list[Step] = []
    try:
        yield steps
    except BaseException:
        for step in reversed(steps):
            step.undo()
        raise


@contextlib.contextmanager
def unchanged_on_error(delivery: Delivery) -> Iterator[None]:
    """Restore the instance if the block raises."""
    before = dict(delivery.__dict__)
    try:
        yield
    except BaseException:
        _restore(delivery, before)
        raise


def _restore(delivery: Delivery, before: Mapping[str, Any]) -> None:
    delivery.__dict__.clear()
    delivery.__dict__.update(before)
