"""Finished rows, and old row versions that the database may not remove."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Mapping

from bench import contenders as known
from bench.bench import WARM_UP, WHOLE, Bench, Result, median
from bench.contenders import OURS, Contender
from bench.running import Round, Running

_OURS_FINISHED = """
INSERT INTO email_integration_delivery ({columns})
SELECT {values} FROM email_integration_delivery AS d, generate_series(1, {{number}}) AS n
WHERE d.id = (SELECT id FROM email_integration_delivery WHERE status = 'accepted' ORDER BY created_at LIMIT 1)
"""
_POST_OFFICE_FINISHED = """
INSERT INTO post_office_email ({columns})
SELECT {values} FROM post_office_email AS d, generate_series(1, {{number}}) AS n
WHERE d.id = (SELECT min(id) FROM post_office_email WHERE status = 0)
"""


def _copies(one: Running, table: str, template: str) -> str:
    """Return the statement that copies a finished row, with new ids."""
    names = [
        name
        for (name,) in one.query(
            f"SELECT column_name FROM information_schema.columns WHERE table_name = '{table}' ORDER BY ordinal_position"
        )
    ]
    if one.contender is OURS:
        values = {"id": "gen_random_uuid()::text", "idempotency_key": "NULL"}
    else:
        names.remove("id")
        values = {}
    return template.format(
        columns=", ".join(f'"{name}"' for name in names),
        values=", ".join(values.get(name, f'd."{name}"') for name in names),
    )


def finished_rows(bench: Bench) -> Result:
    """This shows whether finished mails slow down the mails that are still to be sent."""
    few, many = 1_000, bench.scale.finished_rows
    result = Result(
        name="finished_rows",
        title=f"{few:,} and {many:,} finished rows",
        columns=("contender", "CPU ms/mail, all, with few", "with many", "times", "mails/s with few", "with many"),
    )
    tables: dict[Contender, tuple[str, str]] = {
        OURS: ("email_integration_delivery", _OURS_FINISHED),
        known.POST_OFFICE: ("post_office_email", _POST_OFFICE_FINISHED),
    }
    mails, rounds = bench.pick(60, 200), bench.pick(2, 3)
    for one in bench.running(tuple(tables), bench.services.front()):
        table, template = tables[one.contender]
        measured = []
        with one.awake():
            _clean(one, table)
            one.round(WARM_UP)
            copies = _copies(one, table, template)
            there = 0
            for number in (few, many):
                one.query(copies.format(number=number - there))
                one.query(f"VACUUM (ANALYZE) {table}")
                one.query("CHECKPOINT")
                there = number
                one.round(WARM_UP)
                measured.append([one.round(mails) for _ in range(rounds)])
            if one.contender is OURS:
                taken = one.driver.call("sweep", 20)
                result.remarks.append(f"A sweep with {many:,} finished rows: {1000 * statistics.median(taken):.1f} ms.")
                result.metrics["sweep"] = 1000 * statistics.median(taken)
            _clean(one, table)
        cost = [median(each, "all") for each in measured]
        rate = [median(each, "rate") for each in measured]
        result.rows.append(
            (
                one.contender.label,
                *(f"{value:.2f}" for value in cost),
                f"{cost[1] / cost[0]:.2f} ×",
                *(f"{value:,.0f}" for value in rate),
            )
        )
        result.data[one.contender.name] = {"cpu": cost, "rate": rate}
        if one.contender is OURS:
            result.metrics["times"] = cost[1] / cost[0]
    if many < WHOLE.finished_rows:
        result.scale = f"with {many:,} rows"
    result.limits = (
        "finished rows are not in the indexes that the sweep and the attempts use; the remaining cost is that a "
        "larger table has deeper indexes to insert into, and the noise of the machine"
    )
    return result


#: The parts whose CPU counts with an open transaction. It does not affect the caller's inserts.
_PARTS = ("worker", "database")


def open_transaction(bench: Bench) -> Result:
    """Another connection's transaction stays open, so the database removes no row version that is newer than it."""
    mails, singly = bench.scale.held_mails, bench.pick(40, 200)
    kinds = (f"{mails:,} in bulk", f"{singly} one by one after that")
    result = Result(
        name="open_transaction",
        title="An open transaction",
        columns=(
            "mails",
            "CPU ms/mail: worker",
            "database",
            "with it: worker",
            "database",
            "worker and database",
            "mails/s",
            "with it",
        ),
    )
    (ours,) = bench.running((OURS,), bench.services.front())
    measured: list[list[Round]] = []
    with ours.awake():
        for hold in (contextlib.nullcontext, _held):
            _clean(ours, "email_integration_delivery")
            with hold(ours):
                ours.round(WARM_UP)
                measured.append([ours.round(mails, together=1_000), ours.round(singly)])
        _clean(ours, "email_integration_delivery")
    ratios = []
    for kind, without, held in zip(kinds, *measured, strict=True):
        costs = [{part: 1000 * one.cpu[part] / one.mails for part in _PARTS} for one in (without, held)]
        ratios.append(_times(*costs))
        each = [f"{cost[part]:.2f}" for cost in costs for part in _PARTS]
        result.rows.append((kind, *each, f"{ratios[-1]:.2f} ×", *(f"{one.rate:,.0f}" for one in (without, held))))
        result.data[kind] = {"without": costs[0], "with": costs[1]}
    result.metrics = {"times": max(ratios)}
    result.remarks.append(
        f"Another connection has a snapshot (REPEATABLE READ) that is older than the {mails + singly:,} mails that "
        "are sent meanwhile. The cost of an open transaction does not depend on its duration but on the number of "
        f"mails sent during it: ten minutes at {(mails + singly) / 600:.0f} mails a second are as many. Each mail "
        "leaves old versions of its row and of its index entries, and queries must skip them until the transaction "
        "has ended."
    )
    if mails < WHOLE.held_mails:
        result.scale = f"with {mails:,} mails"
    result.limits = (
        "the claim looks up due mail in an index, and skips the entries of mails that were sent; the record updates "
        "rows whose older versions stay"
    )
    return result


def _times(without: Mapping[str, float], held: Mapping[str, float]) -> float:
    """Return the ratio of the CPU of both parts together."""
    return sum(held.values()) / sum(without.values())


@contextlib.contextmanager
def _held(one: Running) -> Iterator[None]:
    """Hold a snapshot on another connection, as a long report or a forgotten session does."""
    with one.services.postgresql.connect(one.database) as other:
        other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        # The first query takes the snapshot.
        other.execute("SELECT count(*) FROM email_integration_delivery")
        yield
        other.execute("ROLLBACK")


def _clean(one: Running, table: str) -> None:
    """Start with an empty table."""
    one.query(f"TRUNCATE {table} CASCADE")
    one.query(f"VACUUM (ANALYZE) {table}")
    one.query("CHECKPOINT")
