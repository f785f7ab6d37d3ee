"""One case: its effect on a world, and the counts afterwards."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from config.local.processes import PATIENCE, wait_until

from .databases import CannotCount, Row, rows
from .world import Setting, World

#: The statuses of finished mail. They are repeated here, because they are part of the tested behaviour.
ENDS = {"accepted", "failed", "expired", "cancelled", "quarantined"}


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The mails of a case by result, counted in the server's mailbox and in the database."""

    submitted: int
    #: Distinct Message-IDs in the mailbox.
    arrived: int
    #: Refused for good by the server, which is allowed only for a case with such a fault.
    refused: int
    #: Neither arrived nor refused, and finished.
    lost: int
    #: Further copies in the mailbox.
    duplicated: int
    #: How often a mail was recorded in doubt.
    in_doubt: int
    #: Copies of a mail beyond the first that exceed its records of doubt, and mails whose copies differ.
    unexplained: int
    #: In doubt, and waiting for a person's decision.
    held: int
    #: Neither finished nor held at the end of the time.
    stuck: int
    #: Continuations: not started although the mail was accepted; started more than once.
    not_followed: int
    followed_twice: int
    #: Seconds from the first submission to the end of all mails.
    seconds: float
    #: Broken promises that only this case has.
    complaints: tuple[str, ...] = ()
    #: Other remarks about this run.
    remarks: tuple[str, ...] = ()

    def broken(self, case: Case) -> list[str]:
        """Return the broken promises, in words."""
        said = {
            f"{self.lost} lost": self.lost,
            f"{self.stuck} stuck": self.stuck,
            f"{self.unexplained} duplicated without a record of doubt": self.unexplained,
            f"{self.duplicated} duplicated although the policy is hold": case.setting.policy == "hold"
            and self.duplicated,
            f"{self.held} held although the policy is resend": case.setting.policy == "resend" and self.held,
            f"{self.not_followed} not continued": self.not_followed,
            f"{self.followed_twice} continued twice": self.followed_twice > case.may_follow_twice,
            f"{self.in_doubt} in doubt, expected {_in_words(case.doubts)}": case.doubts is not None
            and self.in_doubt not in case.doubts,
            f"{self.refused} refused, expected at most {case.refuses}": self.refused > case.refuses,
            "no mail was submitted": not self.submitted,
        }
        return [*self.complaints, *(words for words, is_so in said.items() if is_so)]


def _in_words(numbers: range | None) -> str:
    return "any number" if numbers is None else f"{numbers.start} to {numbers.stop - 1}"


@dataclass(frozen=True, kw_only=True)
class Case:
    """``act`` submits the mails and causes the fault. The rest of the case is the same for all.

    Args:
        refuses: how many mails the server refuses for good.
        may_follow_twice: how many continuations may run again.
        doubts: how often a mail can become in doubt; None if this is not known.
        seconds: how long it may take until all mails are finished.
    """

    group: str
    name: str
    setting: Setting
    act: Callable[[Run], None] = field(repr=False)
    refuses: int = 0
    may_follow_twice: int = 0
    doubts: range | None = None
    seconds: float = 2 * PATIENCE
    #: Too long for 'make test'.
    slow: bool = False

    def __str__(self) -> str:
        return f"{self.group}: {self.name}, {self.setting.policy}, {self.setting.database}"


class Run:
    """A case that is running in a world."""

    _numbers = itertools.count(1)

    def __init__(self, world: World, case: Case) -> None:
        self.world = world
        self.case = case
        self.ids: list[str] = []
        #: The tags of continuations, and the mails that have one.
        self._tags: list[str] = [""]
        self._to_follow: list[str] = []
        #: Submissions that failed for the application.
        self.refused = 0
        #: How many kills the case made, and of how many processes.
        self.kills = 0
        self.killed = 0
        self._complaints: list[str] = []
        self._remarks: list[str] = []
        self._is_submitting = False
        self._total_before = world.smtp.total
        self.started = time.monotonic()

    # The actions of a case

    def submit(
        self, mails: int = 6, *, size: int = 300, followed: bool = False, atomic: bool = False, bulk: bool = False
    ) -> float:
        """Submit, and return the seconds that it took."""
        self.begin_submitting(mails, size=size, followed=followed, atomic=atomic, bulk=bulk)
        return self.finish_submitting()

    def begin_submitting(
        self,
        mails: int = 6,
        *,
        size: int = 300,
        followed: bool = False,
        atomic: bool = False,
        bulk: bool = False,
        pause: float = 0,
    ) -> None:
        """Let the application submit in the background, ``pause`` seconds apart; ``finish_submitting`` waits for it."""
        self._tags.append(f"followed{next(self._numbers)}" if followed else "")
        self._is_submitting = True
        self.world.application.begin(
            do="submit", mails=mails, size=size, atomic=atomic, bulk=bulk, followed_by=self._tags[-1], pause=pause
        )

    def finish_submitting(self) -> float:
        """Wait until the application has submitted, and return the seconds that it took."""
        answer = self.world.application.finish()
        self._is_submitting = False
        self.ids.extend(answer["ids"])
        if self._tags[-1]:
            self._to_follow.extend(answer["ids"])
        self.refused += answer["refused"]
        return float(answer["seconds"])

    def wake_again(self) -> None:
        """Wake workers once for each submitted mail."""
        self.world.application.call(do="wake", times=len(self.ids))

    def wait(self, condition: Callable[[], object], what: str, *, seconds: float = PATIENCE) -> None:
        """Wait for a condition that the case requires."""
        wait_until(condition, seconds=seconds, what=f"{self.case}: {what}")

    def promise(self, is_so: bool, otherwise: str) -> None:
        """Record ``otherwise`` as a broken promise of this case unless ``is_so``."""
        if not is_so:
            self._complaints.append(otherwise)

    def remark(self, text: str) -> None:
        """Record a remark beside the counts."""
        self._remarks.append(text)

    def arrived(self, mails: int) -> Callable[[], bool]:
        """Return a condition: ``mails`` messages have arrived since the case began."""
        return lambda: self.world.smtp.total - self._total_before >= mails

    # The observed state

    def rows(self) -> dict[str, Row]:
        """Return the stored deliveries."""
        return rows(self.world.database, self.ids)

    def is_over(self) -> bool:
        """Return whether all mails are submitted and finished, and their continuations started."""
        return self.open_rows() == 0 and not self._is_submitting

    def _is_at_its_end(self, row: Row) -> bool:
        return (row.status in ENDS and row.continued) or (row.status == "in_doubt" and self._holds)

    @property
    def at_once(self) -> int:
        """How many mails a process may have in progress at the same time."""
        return self.case.setting.sessions

    def open_rows(self, *, start_missing: bool = True) -> int | None:
        """Return the number of unfinished mails, or None if it is unknown.

        With ``start_missing``, start missing workers.
        """
        if start_missing:
            self.world.start_missing_workers()
        try:
            return sum(not self._is_at_its_end(row) for row in self.rows().values())
        except CannotCount:
            return None

    @property
    def _holds(self) -> bool:
        return self.case.setting.policy == "hold"

    def drain(self) -> None:
        """Wait until all mails are finished, up to the case's time."""
        try:
            wait_until(self.is_over, seconds=self.case.seconds, what="all mails finished")
        except TimeoutError:
            pass  # the counts show it

    def count(self) -> Counts:
        """Count the mails by result."""
        seconds = time.monotonic() - self.started
        found = wait_until(self._rows_if_any, what="the database")
        copies = self.world.smtp.copies()
        altered = self.world.smtp.altered()
        in_box = {pk: copies[row.message_id] for pk, row in found.items()}
        refused = {pk for pk, row in found.items() if self.case.refuses and row.status == "failed" and not in_box[pk]}
        held = {pk for pk, row in found.items() if self._holds and row.status == "in_doubt"}
        open_ = {pk for pk, row in found.items() if not (row.status in ENDS and row.continued)} - held
        lost = {pk for pk in self.ids if not in_box.get(pk)} - refused - held - open_
        return Counts(
            submitted=len(self.ids),
            arrived=sum(1 for number in in_box.values() if number),
            refused=len(refused),
            lost=len(lost),
            duplicated=sum(number - 1 for number in in_box.values() if number),
            in_doubt=sum(row.doubts for row in found.values()),
            unexplained=sum(max(0, in_box[pk] - 1 - row.doubts) for pk, row in found.items())
            + sum(1 for row in found.values() if row.message_id in altered),
            held=len(held),
            stuck=len(open_),
            not_followed=len(self._not_followed(found)),
            followed_twice=sum(number - 1 for number in Counter(self._followed()).values()),
            seconds=seconds,
            complaints=tuple(self._complaints),
            remarks=tuple(self._remarks),
        )

    def _rows_if_any(self) -> dict[str, Row] | None:
        try:
            return self.rows()
        except CannotCount:
            return None

    def _not_followed(self, found: dict[str, Row]) -> set[str]:
        accepted = {pk for pk, row in found.items() if row.status == "accepted"}
        return accepted.intersection(self._to_follow) - set(self._followed())

    def _followed(self) -> list[str]:
        return [pk for tag in self._tags if tag for pk in self.world.followed(tag)]


def run_case(world: World, case: Case) -> Counts:
    """Run a case in a world of its setting, and count. Raises TimeoutError if the intended fault did not occur."""
    run = Run(world, case)
    try:
        case.act(run)
    finally:
        world.smtp.behave()
        world.plan.drop()
    run.drain()
    return run.count()
