"""The goals and their verdicts. Goals are defined only here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench import contenders as known
from bench.bench import Result
from bench.contenders import Contender


@dataclass(frozen=True, kw_only=True)
class Goal:
    """One metric of a scenario, with its least or greatest value. ``shown`` formats it.

    ``towards`` is the long-term aim. The verdict uses only the bound.
    """

    scenario: str
    words: str
    metric: str
    at_least: float | None = None
    at_most: float | None = None
    towards: float | None = None
    shown: str = "{:.2f} ×"

    def is_met(self, reached: float) -> bool:
        return (self.at_least is None or reached >= self.at_least) and (self.at_most is None or reached <= self.at_most)

    @property
    def bound(self) -> str:
        """The required value, in words."""
        if self.at_least is not None:
            return f"at least {self.shown.format(self.at_least)}"
        return f"at most {self.shown.format(self.at_most)}"

    @property
    def beyond(self) -> str:
        """The long-term aim, in words, or '' if there is none beyond the bound."""
        return "" if self.towards is None else self.shown.format(self.towards)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A goal and the measured value, or None if it was not measured."""

    goal: Goal
    reached: float | None
    #: The scale of the measurement, if it is smaller than the goal's.
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
    """Return the verdict on each goal, in the order of the table below."""
    by_name: Mapping[str, Result] = {result.name: result for result in results}
    verdicts = []
    for goal in GOALS:
        result = by_name.get(goal.scenario)
        reached = result.metrics.get(goal.metric) if result else None
        verdicts.append(Verdict(goal=goal, reached=reached, scale=result.scale if result else ""))
    return verdicts


def times(contender: Contender) -> str:
    """Return the name of the metric 'our rate, as a multiple of this contender's'."""
    return f"times {contender.name}"


#: The same for smtp-source, which is not a contender.
TIMES_SOURCE = "times smtp-source"


def _rate(scenario: str, at_least: float, contender: Contender, words: str, *, towards: float | None = None) -> Goal:
    return Goal(
        scenario=scenario,
        words=f"mails a second, compared with {words}",
        metric=times(contender),
        at_least=at_least,
        towards=towards,
    )


def _publishing(metric: str, words: str, at_least: float, *, towards: float) -> Goal:
    return Goal(
        scenario="publishing",
        words=f"mails a second of the caller's CPU, {words}, compared with a plain .delay()",
        metric=metric,
        at_least=at_least,
        towards=towards,
    )


def _most(
    scenario: str, words: str, metric: str, at_most: float, shown: str = "{:.2f} ×", *, towards: float | None = None
) -> Goal:
    return Goal(scenario=scenario, words=words, metric=metric, at_most=at_most, towards=towards, shown=shown)


_URGENT = "the slowest urgent mail, from .delay() to the server's acceptance"
_TWO_PROCESSES = "in tens, as many processes and one session each"

GOALS = (
    _rate("one_by_one", 3, known.NO_RESULTS, "plain Celery without results", towards=5),
    _rate("one_by_one", 1.3, known.NOTHING, "a Celery task that does nothing", towards=2.5),
    _rate("one_by_one", 8, known.AS_INSTALLED, "plain Celery with results, as installed"),
    _rate("one_by_one", 5, known.TUNED, "the same, tuned"),
    _rate("one_by_one", 2, known.POST_OFFICE, "django-post-office", towards=4),
    _rate("tls", 6, known.NO_RESULTS, "plain Celery without results", towards=10),
    _rate("bulk", 3.5, known.CELERY_EMAIL_10, f"django-celery-email {_TWO_PROCESSES}", towards=7),
    _rate("bulk", 2, known.CELERY_EMAIL_100, "the same in hundreds", towards=5),
    _rate("bulk", 5, known.POST_OFFICE, "django-post-office", towards=10),
    Goal(
        scenario="bulk",
        words="mails a second, compared with smtp-source on as many sessions",
        metric=TIMES_SOURCE,
        at_least=0.4,
        towards=1,
    ),
    _rate("far_bulk", 40, known.CELERY_EMAIL_10, f"django-celery-email {_TWO_PROCESSES}", towards=100),
    _rate("far", 10, known.NO_RESULTS, "plain Celery without results", towards=40),
    _most("far", "round trips a mail", "round trips", 2.0, "{:.2f}"),
    _publishing("one by one", "one by one", 1.2, towards=3),
    _publishing("many", "many at a time by submit_many()", 4, towards=15),
    _most("lone", "a lone mail from .delay() to acceptance, median", "median", 15, "{:.1f} ms", towards=6),
    _most("priorities", f"{_URGENT}, a worker for each priority", "slowest", 1, "{:.2f} s", towards=0.2),
    _most("priorities", f"{_URGENT}, one worker for all", "slowest on one worker", 1, "{:.2f} s", towards=0.2),
    _most("steady", "growth of a worker's memory after the first 1,000 mails", "growth", 5, "{:+.1f} %", towards=0),
    _most("finished_rows", "CPU of a mail with many finished rows, compared with few", "times", 1.1),
    _most("finished_rows", "a sweep with many finished rows", "sweep", 20, "{:.1f} ms"),
    _most(
        "open_transaction",
        "CPU of a mail, worker and database, during an open transaction, compared with none",
        "times",
        2,
        towards=1,
    ),
    _most("idle", "CPU of the worker, of one core", "worker", 1, "{:.2f} %"),
    _most("idle", "CPU of beat, of one core", "beat", 1, "{:.2f} %"),
    _most("idle", "queries a sweep", "queries", 1, "{:.1f}"),
    _most("configuration", "CPU of a check, of the CPU of a mail", "share", 5, "{:.1f} %"),
    _most("configuration", "checks a mail in bulk", "checks in bulk", 0.1, "{:.3f}"),
    _most("configuration", "queries per TTL and process", "queries per TTL", 1, "{:.2f}"),
    _most("switch", "attempts begun with the old server after Save had returned", "stale", 0, "{:.0f}"),
    _most("switch", "the first attempt with the new server, after Save had returned", "first new", 50, "{:.0f} ms"),
    _most("large", "the message on the broker", "message", 999, "{:,.0f} octets"),
    _most("large", "growth of the worker's memory", "growth", 10, "{:.1f} MB"),
)
