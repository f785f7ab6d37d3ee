"""Transitions on their way into the database: the instance is ahead of its row, and goes back if they fail."""

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

    With ``unique``, the name of a field, the row that has the same value there is written over, but for ``kept``.
    """

    model: type[models.Model]
    values: Mapping[str, Any] = field(repr=False)
    unique: str = ""
    kept: Collection[str] = ()


class Step:
    """A transition that is in the instance already, and not yet in the database.

    ``values`` are the changed fields, on condition that the status is ``among`` these, or ``not_among`` them, and that
    neither the version nor the batch has changed. The delivery is claimed no longer once it is made. ``rows`` makes
    further rows, to be written only if it is made, and is called once the instance is as it will be. With
    ``store_result`` the result is stored. ``emit`` is called with the delivery once it is made, before the commit
    where there is a transaction, and returns what is to be done after that.
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
        """Say that it is made; return what is to be done once it is committed."""
        acts: list[Act] = []
        file = self._before.get("content_file")
        if file and not self.delivery.content_file:
            acts.append(("delete a content", functools.partial(content.remove_file, file)))
        if self._emit is not None:
            acts += self._emit(self.delivery)
        return acts

    def undo(self) -> None:
        """Leave the instance as it was, so that it can be tried again."""
        _restore(self.delivery, self._before)


#: What makes a step of a delivery as it is now.
Maker = Callable[[Delivery], Step]


@contextlib.contextmanager
def undone_on_error() -> Iterator[list[Step]]:
    """Give a list for steps, which are undone when what happens inside fails."""
    steps: list[Step] = []
    try:
        yield steps
    except BaseException:
        for step in reversed(steps):
            step.undo()
        raise


@contextlib.contextmanager
def unchanged_on_error(delivery: Delivery) -> Iterator[None]:
    """Leave the instance as it is now when what happens inside fails."""
    before = dict(delivery.__dict__)
    try:
        yield
    except BaseException:
        _restore(delivery, before)
        raise


def _restore(delivery: Delivery, before: Mapping[str, Any]) -> None:
    delivery.__dict__.clear()
    delivery.__dict__.update(before)
