"""Single scenarios: the cost of a promise, or a proof that it holds."""

from __future__ import annotations

import statistics
import time
from collections import Counter

from bench import contenders as known
from bench import measure
from bench.bench import WARM_UP, WHOLE, Bench, Result
from bench.contenders import OURS
from bench.running import Running
from config.local.processes import wait_until

_MB = 2**20


def publishing(bench: Bench) -> Result:
    """The cost of submitting for the caller, while no worker runs."""
    result = Result(
        name="publishing",
        title="Publishing: CPU of the caller",
        columns=("contender", "CPU ms/mail", "mails/s of CPU", "plain .delay() is"),
        unit="mails a second of the caller's CPU",
    )
    number = bench.pick(200, 1000)
    plain, ours = bench.running((known.NO_RESULTS, OURS), bench.services.front())
    plainly, single = "plain .delay()", "this project, send_email.delay() one by one"
    unheard = "the same without its wake-up"
    delays = f"this project, {number:,} send_email.delay() in one transaction"
    many = f"this project, submit_many() of {number:,}"
    ways = {
        plainly: (plain, 0, ""),
        single: (ours, 0, ""),
        unheard: (ours, number, "delay_without_wake_ups"),
        delays: (ours, number, "delay_together"),
        many: (ours, number, "submit_together"),
    }
    cpu: dict[str, list[float]] = {label: [] for label in ways}
    for _ in range(bench.rounds):
        for label, (one, together, way) in ways.items():
            one.driver.call("submit", 5, 0)
            cpu[label].append(1000 * one.driver.call("submit", number, together, way)["cpu"] / number)
            discard(one)
    each = {label: statistics.median(values) for label, values in cpu.items()}
    for label, cost in each.items():
        result.rows.append((label, f"{cost:.2f}", f"{1000 / cost:,.0f}", f"{each[plainly] / cost:.2f} ×"))
        result.bars[label] = 1000 / cost
    result.data.update(cpu)
    result.metrics = {
        "one by one": each[plainly] / each[single],
        "without wake-up": each[plainly] / each[unheard],
        "many": each[plainly] / each[many],
    }
    result.limits = (
        f"submitting one takes the caller {each[single]:.2f} ms of CPU, {each[unheard]:.2f} of them without waking a "
        f"worker, and each of many {each[many]:.2f} ms, in which "
        f"the mail is rendered, sealed and written to the database; a plain .delay() takes {each[plainly]:.2f} ms and "
        "does none of that"
    )
    return result


def discard(one: Running) -> None:
    """Remove mail that was submitted but not processed."""
    one.ask_broker(f"DEL {' '.join(one.queues)}")
    if one.contender is OURS:
        one.query("DELETE FROM email_integration_delivery WHERE finished_at IS NULL")


def configuration(bench: Bench) -> Result:
    """The cost of checking for each mail which server is the active one."""
    (ours,) = bench.running((OURS,), bench.services.front())
    each = ours.driver.call("check_configuration", bench.pick(500, 3000))
    seconds = bench.pick(6, 16)
    asked = ours.driver.call("count_queries", seconds)
    periods = -(-seconds // _TTL)
    single, group = bench.pick(20, 100), bench.pick(200, 1000)
    with ours.awake():
        rounds = [ours.round(WARM_UP), ours.round(single)]
        mail = bench.kept.get("one_by_one") or 1000 * rounds[1].cpu["worker"] / single
        checks = {}
        for together, number in ((0, single), (group, group)):
            with bench.services.commands(ours.env["BENCH_BROKER"]) as commands:
                ours.round(number, together=together)
            checks[together] = sum(":email_integration:generation" in command for command in commands) / number
    share = {way: each[way] / 10 / mail for way in each}
    metrics = {"share": share["generation"], "checks in bulk": checks[group], "queries per TTL": asked / periods}
    return Result(
        name="configuration",
        title="A configuration check",
        columns=("what", "measured"),
        rows=[
            ("a check that reads the configuration generation", f"{each['generation']:.0f} µs of CPU"),
            ("of the worker's CPU for a mail, one by one", f"{share['generation']:.1f} %"),
            ("all checks of a mail, one by one", f"{checks[0]:.2f}, {checks[0] * share['generation']:.1f} %"),
            ("a query at each check instead", f"{each['query']:.0f} µs of CPU"),
            ("of the worker's CPU for a mail, one by one", f"{share['query']:.1f} %"),
            (f"checks a mail, {group:,} in bulk", f"{checks[group]:.3f}"),
            (
                f"queries of a process that checks without a pause, in {seconds} s",
                f"{asked}, in {periods} times the TTL",
            ),
        ],
        metrics=metrics,
        limits="a check is a GET of the shared cache; its result is used for a tenth of a second, so mails to slow "
        "servers need more checks",
        data={**each, "checks": checks, "queries": asked, "seconds": seconds},
    )


#: How long a copy of the configuration is valid, in seconds: the project's default.
_TTL = 5


def switch(bench: Bench) -> Result:
    """Another configuration is saved while eight processes send."""
    bench.end()
    # Enough mails that some are left when the save has returned.
    front, mails = bench.services.front(), bench.pick(3_000, 6_000)
    _, port, second = bench.services.start_sink("second sink")
    with Running(OURS, bench.services, front, concurrency=8) as ours:
        ours.round(20)
        first = bench.services.sink
        first.ask("reset")
        admin = ours.new_driver()
        try:
            ours.driver.begin("submit", mails, 0)
            wait_until(lambda: first.ask()["messages"] >= mails // 5, seconds=120, what="a fifth of the mails")
            done = admin.call("switch", port)
        finally:
            admin.end()
        ours.driver.finish()

        def arrived() -> int:
            return int(first.ask()["messages"] + second.ask()["messages"])

        wait_until(lambda: arrived() >= mails, seconds=300, what=f"{mails} mails at the two")
        wait_until(
            lambda: not ours.query("SELECT 1 FROM email_integration_delivery WHERE finished_at IS NULL LIMIT 1"),
            seconds=60,
            what="all outcomes",
        )
        stale = ours.query(
            "SELECT count(*) FROM email_integration_deliveryattempt"
            f" WHERE smtp_config = 'Sink' AND started_at > to_timestamp({done['wall']!r})"
        )[0][0]
        old, new = first.ask("begun"), second.ask("begun")
        duplicates = sum(int(one.ask()["messages"] - one.ask()["distinct"]) for one in (first, second))
        ours.query("UPDATE email_integration_smtpconfig SET is_active = false")
        ours.query("DELETE FROM email_integration_smtpconfig WHERE name = 'Second'")
    late = sum(moment > done["returned"] for moment in old)
    waited = 1000 * (min(new) - done["returned"])
    return Result(
        name="switch",
        title="A switch while 8 processes send",
        columns=("what", "measured"),
        rows=[
            ("attempts begun after Save returned that used the old server", str(stale)),
            ("MAIL commands the old server saw after that, of attempts begun before", str(late)),
            ("first MAIL at the new server, after Save returned", f"{waited:.0f} ms"),
            ("Save itself", f"{1000 * (done['returned'] - done['called']):.0f} ms"),
            ("mails at the old server, at the new one, twice", f"{len(old)}, {len(new)}, {duplicates}"),
        ],
        metrics={"stale": stale, "first new": waited},
        limits="eight processes share the cores of this machine with the caller and the database. The first attempt "
        "after the switch waits for its turn, and opens a session to the new server",
        data={"stale": stale, "late": late, "first_new_ms": waited, "arrived": arrived(), "mails": mails},
    )


def large(bench: Bench) -> Result:
    """One mail with an attachment of 25 MB."""
    octets = 25 * 1000 * 1000
    result = Result(
        name="large",
        title="One mail of 25 MB",
        columns=("contender", "broker message", "the worker grows by", "seconds to acceptance", "caller's CPU ms"),
    )
    for one in bench.running((OURS, known.CELERY_EMAIL, known.POST_OFFICE), bench.services.front()):
        with one.awake():
            one.round(WARM_UP)
        sink = bench.services.sink
        sink.ask("reset")
        before = measure.cpu([one.driver.pid])
        started = time.monotonic()
        one.driver.call("submit_large", octets)
        caller = measure.cpu([one.driver.pid]) - before
        queues = (one.ask_broker(f"LINDEX {queue} 0") for queue in one.queues if one.contender.works == "celery")
        message = next((found for found in queues if found.startswith(b"{")), b"")
        pids = [pid for root in one.worker_pids for pid in measure.tree(root)]
        held = {pid: measure.reset_peak(pid) for pid in pids}
        with one.awake():
            if one.contender.works == "command":
                one.flush()
            wait_until(lambda: sink.ask()["messages"] >= 1, seconds=120, what="the large mail")  # noqa: B023
            time.sleep(0.5)
        took = sink.ask()["last"] - started
        grown = max(measure.peak(pid) - before for pid, before in held.items())
        on_broker = f"{len(message):,} octets" if one.contender.works == "celery" else "-"
        grew = f"{grown / _MB:.0f} MB" if one.contender.works == "celery" else "-"
        result.rows.append((one.contender.label, on_broker, grew, f"{took:.1f}", f"{1000 * caller:.0f}"))
        result.data[one.contender.name] = {"message": len(message), "grown": grown, "seconds": took}
        if one.contender is OURS:
            result.metrics = {"message": len(message), "growth": grown / _MB}
    result.limits = (
        "the message is a wake-up, which names a queue, and Celery's own headers; the content is read in pieces"
    )
    result.remarks.append(
        "The growth of the worker is the largest difference, of all its processes, between the peak "
        "memory and the memory before."
    )
    return result


def idle(bench: Bench) -> Result:
    """The CPU and the queries of the worker and beat while there is no mail to send."""
    (ours,) = bench.running((OURS,), bench.services.front())
    seconds = bench.pick(11, 30)
    with ours.awake():
        ours.round(WARM_UP)
        time.sleep(1)
        worker, beat = (process.pid for process in ours.workers)
        with bench.services.postgresql.statements(ours.database) as counted:
            before = [measure.cpu([pid]) for pid in (worker, beat)]
            time.sleep(seconds)
            used = [100 * (measure.cpu([pid]) - cpu) / seconds for pid, cpu in zip((worker, beat), before, strict=True)]
    # The single query of every sweep: whether deliveries or probes are due.
    questions = Counter({text: number for text, number in counted.items() if "circuitbreaker" in text})
    # The query of the alert evaluation, which does not belong to a sweep.
    evaluations = sum(number for text, number in questions.items() if "_alert" in text)
    sweeps = questions.total() - evaluations
    # The queries of our tables. The rest check whether a connection is alive, which each task does first.
    asked = {text: number for text, number in counted.items() if "email_integration_" in text}
    queries = sum(number for text, number in asked.items() if "_alert" not in text) / max(1, sweeps)
    others = (counted.total() - sum(asked.values())) / max(1, sweeps)
    return Result(
        name="idle",
        title="Idle",
        columns=("what", "measured"),
        rows=[
            ("CPU of the worker, of one core", f"{used[0]:.2f} %"),
            ("CPU of beat, of one core", f"{used[1]:.2f} %"),
            ("sweeps", f"{sweeps} in {seconds} s"),
            ("queries a sweep", f"{queries:.1f}"),
            ("evaluations of alerts, of one query each", f"{evaluations} in {seconds} s"),
            ("checks of the connection, a sweep", f"{others:.1f}"),
        ],
        metrics={"worker": used[0], "beat": used[1], "queries": queries},
        limits="a sweep asks "
        + "; ".join(f"{number / max(1, sweeps):.1f} × `{text[:90]}`" for text, number in counted.most_common(6)),
        data={"worker": used[0], "beat": used[1], "sweeps": sweeps, "statements": dict(counted)},
    )


def steady(bench: Bench) -> Result:
    """This shows whether the memory of one worker grows with very many mails."""
    (ours,) = bench.running((OURS,), bench.services.front())
    most, step = bench.scale.steady_mails, 1_000
    seconds = bench.pick(30, 200)
    held: list[int] = []
    until = time.monotonic() + seconds
    with ours.awake():
        while len(held) * step < most and time.monotonic() < until:
            # Mostly in bulk, to be fast enough, and a few of each thousand one by one.
            ours.round(step - _SINGLY, together=step)
            ours.round(_SINGLY)
            held.append(measure.memory(ours.worker_pids))
    sent = len(held) * step
    growth = 100 * (max(held[-3:]) / held[0] - 1)
    result = Result(
        name="steady",
        title="Very many mails through one worker",
        columns=("mails", "worker MB (PSS)"),
        rows=[(f"{(number + 1) * step:,}", f"{held[number] / _MB:.1f}") for number in _some(len(held))],
        remarks=[
            f"{sent:,} mails in bulk, {_SINGLY} of each thousand one by one; the memory of the worker and beat "
            f"together. From the first thousand to the end, it grew by {(max(held[-3:]) - held[0]) / _MB:+.1f} MB; "
            f"after half of the mails, by {(max(held[-3:]) - held[len(held) // 2]) / _MB:+.1f} MB. Growth within 5 % "
            "counts as none."
        ],
        metrics={"growth": growth},
        limits="the table shows the kind of growth: steps that end are caches that fill, a steady slope is a leak",
        data={"held": held, "step": step},
    )
    if sent < WHOLE.steady_mails:
        result.scale = f"with {sent:,} mails"
    return result


#: How many of each thousand mails.
_SINGLY = 20


def _some(number: int) -> list[int]:
    """Return the first, the last and at most eight numbers between."""
    return sorted({0, number - 1, *range(0, number, max(1, number // 8))})
