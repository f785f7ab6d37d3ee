"""What was aimed at, and whether it was reached: the one place where a goal stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench import contenders as known
from bench.bench import Result
from bench.contenders import Contender


@dataclass(frozen=True, kw_only=True)
class Goal:
    """One figure of a scenario, and the least or the most it may be; ``shown`` formats it."""

    scenario: str
    words: str
    figure: str
    at_least: float | None = None
    at_most: float | None = None
    shown: str = "{:.2f} ×"

    def is_met(self, reached: float) -> bool:
        return (self.at_least is None or reached >= self.at_least) and (self.at_most is None or reached <= self.at_most)

    @property
    def bound(self) -> str:
        """The figure that was aimed at, in words."""
        if self.at_least is not None:
            return f"at least {self.shown.format(self.at_least)}"
        return f"at most {self.shown.format(self.at_most)}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A goal and what was reached: None when it was not measured."""

    goal: Goal
    reached: float | None
    #: On which smaller scale than the goal's, if so.
    scale: str = ""

    @property
    def is_met(self) -> bool | None:
        return None if self.reached is None else self.goal.is_met(self.reached)

    @property
    def words(self) -> str:
        """'met', 'not met' or 'not measured'."""
        return {True: "met", False: "not met", None: "not measured"}[self.is_met]

    @property
    def shown(self) -> str:
        if self.reached is None:
            return "-"
        return self.goal.shown.format(self.reached) + (f" ({self.scale})" if self.scale else "")


def judge(results: Sequence[Result]) -> list[Verdict]:
    """What became of each goal, in the order of the table below."""
    by_name: Mapping[str, Result] = {result.name: result for result in results}
    verdicts = []
    for goal in GOALS:
        result = by_name.get(goal.scenario)
        reached = result.figures.get(goal.figure) if result else None
        verdicts.append(Verdict(goal=goal, reached=reached, scale=result.scale if result else ""))
    return verdicts


def times(contender: Contender) -> str:
    """The name of the figure 'our rate, as a multiple of this contender's'."""
    return f"times {contender.name}"


#: The same of smtp-source, which is no contender of ours.
TIMES_SOURCE = "times smtp-source"


def _rate(scenario: str, at_least: float, contender: Contender, words: str) -> Goal:
    return Goal(scenario=scenario, words=f"mails a second, beside {words}", figure=times(contender), at_least=at_least)


def _most(scenario: str, words: str, figure: str, at_most: float, shown: str) -> Goal:
    return Goal(scenario=scenario, words=words, figure=figure, at_most=at_most, shown=shown)


GOALS = (
    _rate("one_by_one", 3, known.AS_INSTALLED, "plain Celery that keeps results, as installed"),
    _rate("one_by_one", 1, known.TUNED, "the same, tuned"),
    _rate("one_by_one", 0.75, known.NO_RESULTS, "plain Celery that keeps no results"),
    _rate("tls", 3, known.NO_RESULTS, "plain Celery that keeps no results"),
    _rate("far", 5, known.NO_RESULTS, "plain Celery that keeps no results"),
    _most("far", "round trips a mail", "round trips", 2.0, "{:.2f}"),
    _rate("far_plain", 3.5, known.NO_RESULTS, "plain Celery that keeps no results"),
    _most("far_plain", "round trips a mail", "round trips", 2.0, "{:.2f}"),
    Goal(
        scenario="publishing",
        words="mails a second of the caller's CPU, one by one, beside a plain .delay()",
        figure="one by one",
        at_least=0.5,
    ),
    Goal(
        scenario="publishing",
        words="mails a second of the caller's CPU, one by one without their wake-ups, beside a plain .delay()",
        figure="without wake-up",
        at_least=2,
    ),
    Goal(
        scenario="publishing",
        words="mails a second of the caller's CPU, many in one transaction, beside a plain .delay()",
        figure="many",
        at_least=4,
    ),
    _rate("bulk", 1.5, known.CELERY_EMAIL_10, "django-celery-email in tens"),
    _rate("bulk", 1, known.CELERY_EMAIL_100, "django-celery-email in hundreds"),
    _rate("bulk", 3, known.POST_OFFICE, "django-post-office"),
    Goal(
        scenario="bulk",
        words="mails a second, beside smtp-source on as many sessions",
        figure=TIMES_SOURCE,
        at_least=0.25,
    ),
    _rate("far_bulk", 4, known.CELERY_EMAIL_10, "django-celery-email in tens, on as many sessions"),
    _most("configuration", "CPU of a check, of the CPU of a mail", "share", 5, "{:.1f} %"),
    _most("configuration", "checks a mail in bulk", "checks in bulk", 0.1, "{:.3f}"),
    _most("configuration", "queries per TTL and process", "queries per TTL", 1, "{:.2f}"),
    _most("switch", "attempts begun with the old server after Save had returned", "stale", 0, "{:.0f}"),
    _most("switch", "the first attempt with the new server, after Save had returned", "first new", 50, "{:.0f} ms"),
    _most("steady", "growth of a worker's memory after the first 1,000 mails", "growth", 5, "{:+.1f} %"),
    _most("large", "the message on the broker", "message", 999, "{:,.0f} octets"),
    _most("large", "growth of the worker's memory", "growth", 10, "{:.1f} MB"),
    _most("finished_rows", "CPU of a mail with many finished rows, more than with few", "more", 10, "{:+.0f} %"),
    _most("finished_rows", "a sweep with many finished rows", "sweep", 20, "{:.1f} ms"),
    _most("idle", "CPU of the worker, of one core", "worker", 1, "{:.2f} %"),
    _most("idle", "CPU of beat, of one core", "beat", 1, "{:.2f} %"),
    _most("idle", "queries a sweep", "queries", 1, "{:.1f}"),
    _most("lanes", "the slowest urgent mail, from .delay() to the server's acceptance", "slowest", 1, "{:.2f} s"),
)
