"""One mail after the other, each alone: the time from ``.delay()`` to its acceptance by the server."""

from __future__ import annotations

import random
import statistics
import time
from dataclasses import dataclass

from bench import contenders as known
from bench.bench import WARM_UP, Bench, Result
from bench.contenders import OURS
from bench.running import Running
from config.local.processes import wait_until


@dataclass(frozen=True, kw_only=True)
class Pause:
    """A random pause, in seconds, between the record of a mail and the next mail.

    ``words`` compares it with a dispatcher's stay. With ``until_idle`` the pause begins after the stay.
    """

    words: str
    shortest: float
    longest: float
    until_idle: bool


_PAUSES = (
    Pause(words="longer", shortest=0.05, longest=0.15, until_idle=True),
    Pause(words="shorter", shortest=0.01, longest=0.07, until_idle=False),
)

#: Seconds before the sink is first asked for a mail, because asking delays it.
_UNDISTURBED = 0.03


def lone(bench: Bench) -> Result:
    """The time of a single mail from the call of `.delay()` to the server's acceptance, with no other mail to send."""
    mails = bench.pick(20, 150)
    result = Result(
        name="lone",
        title="A lone mail, loopback, plain",
        columns=("contender", "pause, compared with a stay", "median ms", "90 % within", "the slowest", "ours takes"),
        unit="median ms from .delay() to acceptance",
    )
    chance = random.Random(0)
    metrics = {}
    for one in bench.running((OURS, known.NO_RESULTS), bench.services.front()):
        with one.awake():
            one.round(WARM_UP)
            for pause in _PAUSES:
                took = [_one(one, pause, chance) for _ in range(mails)]
                median, tenth, slowest = statistics.median(took), statistics.quantiles(took, n=10)[-1], max(took)
                metrics[one.contender, pause] = 1000 * median
                shown = [f"{1000 * seconds:.1f}" for seconds in (median, tenth, slowest)]
                shown.append("" if one.contender is OURS else f"{metrics[OURS, pause] / (1000 * median):.2f} ×")
                result.rows.append((one.contender.label, pause.words, *shown))
                result.data[f"{one.contender.name}, {pause.words}"] = took
                result.bars[f"{one.contender.label}, {pause.words} pause"] = 1000 * median
    result.metrics = {"median": metrics[OURS, _PAUSES[0]], "median within a stay": metrics[OURS, _PAUSES[1]]}
    result.remarks.append(
        f"{mails} mails of each kind, each submitted after the one before was recorded. A dispatcher stays for 0.1 s "
        "after its last mail and looks for mail every 0.01 s. A mail that is submitted in that time needs no wake-up, "
        "and waits for the next look. A later mail waits for its wake-up. For plain Celery, the length of the pause "
        "makes no difference."
    )
    result.limits = (
        "a mail is committed, and its wake-up goes through the broker to a process of the worker. The process claims "
        "it, opens or borrows a session, and has two round trips with the server"
    )
    return result


def _one(one: Running, pause: Pause, chance: random.Random) -> float:
    """Return the seconds from the submission of one mail to its acceptance, after a pause."""
    if pause.until_idle:
        wait_until(lambda: _is_idle(one), seconds=30, what="the end of a dispatcher's stay")
    time.sleep(chance.uniform(pause.shortest, pause.longest))
    sink, since = one.services.sink, one.now()
    sink.ask("reset")
    started: float = one.driver.call("submit", 1, 0)["started"]
    time.sleep(_UNDISTURBED)
    wait_until(lambda: sink.ask()["messages"], seconds=30, what="a lone mail")
    if one.contender.outcomes:
        wait_until(lambda: one.outcomes(since), seconds=30, what="the record of a lone mail")
    return float(sink.ask()["last"]) - started


def _is_idle(one: Running) -> bool:
    """Return whether no key of a queue shows an outstanding wake-up or a dispatcher that stays."""
    return one.ask_broker("KEYS *email_integration:wake:*") == b"*0"
