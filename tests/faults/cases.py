"""One case: what it does to a world, and what is counted afterwards."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from config.local.processes import PATIENCE, wait_until

from .databases import CannotCount, Row, rows
from .world import Setting, World

#: The states in which nothing more is done by itself; written out here, for they are part of what is tested.
ENDS = {"accepted", "failed", "expired", "cancelled", "quarantined"}


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What became of the mails of a case, counted in the server's box and in the database."""

    submitted: int
    #: Distinct Message-IDs in the box.
    arrived: int
    #: Ended because the server said no for good, which only a case that has it say so may have.
    refused: int
    #: Neither arrived nor refused, and nobody will do anything about it.
    lost: int
    #: Further copies in the box.
    duplicated: int
    #: How often a mail was recorded in doubt.
    in_doubt: int
    #: Further copies of a mail beyond its records of doubt, and mails whose copies are not the same bytes.
    unexplained: int
    #: Waits in doubt for a person.
    held: int
    #: Neither at its end nor held when time was up.
    stuck: int
    #: Of what should follow a mail: not done although the mail was accepted; done once more.
    not_followed: int
    followed_twice: int
    #: From the first submission to the end of all.
    seconds: float
    #: Broken promises of this case alone.
    complaints: tuple[str, ...] = ()
    #: What else is worth to be known of this run.
    remarks: tuple[str, ...] = ()

    def broken(self, case: Case) -> list[str]:
        """The promises that are broken, in words."""
        said = {
            f"{self.lost} lost": self.lost,
            f"{self.stuck} stuck": self.stuck,
            f"{self.unexplained} duplicated without a doubt": self.unexplained,
            f"{self.duplicated} duplicated though in doubt means hold": case.setting.policy == "hold"
            and self.duplicated,
            f"{self.held} held though in doubt means resend": case.setting.policy == "resend" and self.held,
            f"{self.not_followed} not followed": self.not_followed,
            f"{self.followed_twice} followed twice": self.followed_twice > case.may_follow_twice,
            f"{self.in_doubt} in doubt, not {case.doubts}": case.doubts is not None
            and self.in_doubt not in case.doubts,
            f"{self.refused} refused, not {case.refuses}": self.refused > case.refuses,
            "no mail submitted": not self.submitted,
        }
        return [*self.complaints, *(words for words, is_so in said.items() if is_so)]


@dataclass(frozen=True, kw_only=True)
class Case:
    """``act`` submits the mails and does the harm; the rest of the case is the same for all.

    ``refuses``: so many mails the server refuses for good. ``may_follow_twice``: so many continuations may run again.
    ``doubts``: how often a mail can have come into doubt, where that is known: the harm was done where it is said.
    ``seconds``: how long it may take until all mails have come to their end.
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
    """A case under way in a world."""

    _numbers = itertools.count(1)

    def __init__(self, world: World, case: Case) -> None:
        self.world = world
        self.case = case
        self.ids: list[str] = []
        #: What marks that which follows a mail, and the mails that something follows.
        self._tags: list[str] = [""]
        self._to_follow: list[str] = []
        #: Submissions that the application was told had failed.
        self.refused = 0
        #: How often the case has killed, and how many processes.
        self.kills = 0
        self.killed = 0
        self._complaints: list[str] = []
        self._remarks: list[str] = []
        self._is_submitting = False
        self._total_before = world.smtp.total
        self.started = time.monotonic()

    # What a case does

    def submit(
        self, mails: int = 6, *, size: int = 300, followed: bool = False, atomic: bool = False, bulk: bool = False
    ) -> float:
        """Submit, and give how many seconds it took."""
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
        """Let the application submit by itself, ``pause`` seconds apart; ``finish_submitting`` waits for it."""
        self._tags.append(f"followed{next(self._numbers)}" if followed else "")
        self._is_submitting = True
        self.world.application.begin(
            do="submit", mails=mails, size=size, atomic=atomic, bulk=bulk, followed_by=self._tags[-1], pause=pause
        )

    def finish_submitting(self) -> float:
        """Wait until the application has submitted, and give how many seconds it took."""
        answer = self.world.application.finish()
        self._is_submitting = False
        self.ids.extend(answer["ids"])
        if self._tags[-1]:
            self._to_follow.extend(answer["ids"])
        self.refused += answer["refused"]
        return float(answer["seconds"])

    def wake_again(self) -> None:
        """Wake workers by hand, once for each mail that was submitted."""
        self.world.application.call(do="wake", times=len(self.ids))

    def wait(self, condition: Callable[[], object], what: str, *, seconds: float = PATIENCE) -> None:
        """Wait for what must have happened for the case to mean anything."""
        wait_until(condition, seconds=seconds, what=f"{self.case}: {what}")

    def promise(self, is_so: bool, otherwise: str) -> None:
        """Note what is a promise of this case alone, and broken."""
        if not is_so:
            self._complaints.append(otherwise)

    def remark(self, text: str) -> None:
        """Note what is worth to be known besides the counts."""
        self._remarks.append(text)

    def arrived(self, mails: int) -> Callable[[], bool]:
        """A condition: so many messages have arrived since the case began."""
        return lambda: self.world.smtp.total - self._total_before >= mails

    # What is looked at

    def rows(self) -> dict[str, Row]:
        """The deliveries as they stand."""
        return rows(self.world.database, self.ids)

    def is_over(self) -> bool:
        """Whether all were submitted and have come to their end, and what follows them has been set going."""
        return self.open_rows() == 0 and not self._is_submitting

    def _is_at_its_end(self, row: Row) -> bool:
        return (row.status in ENDS and row.continued) or (row.status == "in_doubt" and self._holds)

    @property
    def at_once(self) -> int:
        """How many mails a process may have in hand at a time."""
        return self.case.setting.sessions

    def open_rows(self, *, start_missing: bool = True) -> int | None:
        """How many have not come to their end; None if not known. With ``start_missing``, start missing workers."""
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
        """Wait for the end of all, up to the case's time."""
        try:
            wait_until(self.is_over, seconds=self.case.seconds, what="the end of all")
        except TimeoutError:
            pass  # the counts tell

    def count(self) -> Counts:
        """Count."""
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
    """Run a case in a world of its setting, and count. Raises TimeoutError when what should go wrong did not."""
    run = Run(world, case)
    try:
        case.act(run)
    finally:
        world.smtp.behave()
        world.plan.drop()
    run.drain()
    return run.count()
