"""Transitions on their way into the database: the instance is ahead of its row, and goes back if they fail."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from email_integration.message import content
from email_integration.models import Delivery, Status
from email_integration.on_commit import Act, after_commit_each

from . import sql, task_queue
from .rows import database


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
        rows: Callable[[], Iterable[sql.Row]] = tuple,
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


def apply_steps(those: Iterable[Step]) -> list[bool]:
    """Make the transitions in one commit, and say of each whether nobody was faster. Raises ``DatabaseError``.

    Best given as they are made: if one cannot be, those before it are undone as well.
    """
    with undone_on_error() as steps:
        steps.extend(those)
        made = sql.execute_moves(moves(steps), using=database()) if steps else []
    after_commit_each(finish(steps, made), using=database())
    return made


def moves(steps: Sequence[Step], *, batch: str | None = None) -> list[sql.Move]:
    """What these steps write; with ``batch`` while they are claimed with it, whatever their instances say."""
    return [
        sql.Move(
            pk=step.delivery.pk,
            version=step.version,
            values=step.values,
            among=step.among,
            not_among=step.not_among,
            unless_changed={"batch": step.batch if batch is None else batch},
            rows=rows,
        )
        for step, rows in zip(steps, rows_of(steps), strict=True)
    ]


def rows_of(steps: Sequence[Step]) -> list[Sequence[sql.Row]]:
    """The rows of each step, with those of its result."""
    to_store = [step.delivery for step in steps if step.stores_result]
    results = task_queue.installed().result_rows(to_store) if to_store else {}
    if not results:
        return [step.rows for step in steps]
    return [(*step.rows, *(results.get(step.delivery.id, ()) if step.stores_result else ())) for step in steps]


def finish(steps: Sequence[Step], made: Sequence[bool]) -> list[Act]:
    """Undo those steps that were not made; return what is to be done once the others are committed."""
    acts: list[Act] = []
    with_result: list[Delivery] = []
    for step, is_made in zip(steps, made, strict=True):
        if not is_made:
            step.undo()
            continue
        acts += step.made()
        if step.stores_result:
            with_result.append(step.delivery)
    # First of all: a receiver of a signal may look for the result.
    return [*_results_elsewhere(with_result), *acts]


def _results_elsewhere(deliveries: Sequence[Delivery]) -> list[Act]:
    queue = task_queue.installed()
    if not (deliveries and queue.stores_results_elsewhere()):
        return []
    return [("store a result", functools.partial(queue.store_result, one)) for one in deliveries]


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
