"""Transitions on their way into the database: the instance is ahead of its row, and goes back if they fail."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from email_integration.message import content
from email_integration.models import Delivery, Status
from email_integration.on_commit import after_commit

from . import sql, task_queue
from .rows import database


class Step:
    """A transition that is in the instance already, and not yet in the database.

    ``values`` are the changed fields, on condition that the status is ``among`` these, or ``not_among`` them, and that
    neither the fence nor the batch has changed. The delivery is claimed no longer once it is made. ``rows`` makes
    further rows, to be written only if it is made, and is called once the instance is as it will be. With ``report``
    the result is stored. ``tell`` is called with the delivery once it is made, before the commit where there is a
    transaction.
    """

    def __init__(
        self,
        delivery: Delivery,
        values: Mapping[str, Any],
        *,
        rows: Callable[[], Iterable[sql.Row]] = tuple,
        report: bool = False,
        among: Collection[Status] = (),
        not_among: Collection[Status] = (),
        tell: Callable[[Delivery], None] | None = None,
    ) -> None:
        self.delivery = delivery
        self._before = dict(delivery.__dict__)
        self._reports = report
        self._tell = tell
        fence, batch = delivery.fence, delivery.batch
        values = {**values, "batch": ""} if batch else values
        with self.undone_on_error():
            delivery.__dict__.update(values, fence=fence + 1)
            reported = task_queue.installed().report(delivery) if report else ()
            self.move = sql.Move(
                pk=delivery.pk,
                fence=fence,
                values=values,
                among=among,
                not_among=not_among,
                unless_changed={"batch": batch},
                rows=(*rows(), *reported),
            )

    def made(self) -> None:
        """Do what is to be done once it is committed."""
        file = self._before.get("content_file")
        if file and not self.delivery.content_file:
            after_commit("delete a content", functools.partial(content.remove_file, file), using=database())
        if self._reports:
            elsewhere = functools.partial(task_queue.installed().report_elsewhere, self.delivery)
            after_commit("store a result", elsewhere, using=database())
        if self._tell is not None:
            self._tell(self.delivery)

    def undo(self) -> None:
        """Leave the instance as it was, so that it can be tried again."""
        _restore(self.delivery, self._before)

    def undone_on_error(self) -> contextlib.AbstractContextManager[None]:
        """Undo it when what happens inside fails."""
        return _restored_on_error(self.delivery, self._before)


#: What makes a step of a delivery as it is now.
Maker = Callable[[Delivery], Step]


def make(those: Iterable[Step]) -> list[bool]:
    """Make the transitions in one commit, and say of each whether nobody was faster. Raises ``DatabaseError``.

    Best given as they are made: if one cannot be, those before it are undone as well.
    """
    steps = []
    with contextlib.ExitStack() as undoing:
        for step in those:
            undoing.enter_context(step.undone_on_error())
            steps.append(step)
        made = sql.make([step.move for step in steps], using=database()) if steps else []
    finish(steps, made)
    return made


def finish(steps: Sequence[Step], made: Sequence[bool]) -> None:
    """Do what is to be done after those steps that were made, and undo the others."""
    for step, is_made in zip(steps, made, strict=True):
        if is_made:
            step.made()
        else:
            step.undo()


def unchanged_on_error(delivery: Delivery) -> contextlib.AbstractContextManager[None]:
    """Leave the instance as it is now when what happens inside fails."""
    return _restored_on_error(delivery, dict(delivery.__dict__))


@contextlib.contextmanager
def _restored_on_error(delivery: Delivery, before: Mapping[str, Any]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        _restore(delivery, before)
        raise


def _restore(delivery: Delivery, before: Mapping[str, Any]) -> None:
    delivery.__dict__.clear()
    delivery.__dict__.update(before)
