"""A database that restarts, refuses, deadlocks, is locked by others or has no room left."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable, Iterator

import psycopg

from .cases import Case, Run
from .world import Setting, World

_POSTGRESQL = Setting(database="postgresql")
_SERIALIZABLE = Setting(database="postgresql", extra=(("PGOPTIONS", "-c default_transaction_isolation=serializable"),))
_SQLITE = Setting()

#: How long a database is out of order, in seconds.
_A_WHILE = 2.5


def _amid_load(run: Run) -> None:
    """Begin to submit, and wait until some have arrived."""
    run.begin_submitting(100, pause=0.03)
    run.wait(run.arrived(15), "some mails")


def _restarted(mode: str) -> Callable[[Run], None]:
    def act(run: Run) -> None:
        _amid_load(run)
        run.world.postgres.restart(mode)
        run.finish_submitting()

    return act


def _read_only(run: Run) -> None:
    # The reply to a mail that is under way comes when it cannot be recorded.
    run.world.smtp.slow = 0.3
    _amid_load(run)
    with run.world.postgres.read_only():
        time.sleep(_A_WHILE)
    run.world.smtp.slow = 0.0
    run.finish_submitting()
    run.promise(run.refused > 0, "no submission was refused")


def _deadlocked(run: Run) -> None:
    """Lock what a worker locks, the other way round: the attempts first, and then the deliveries."""
    postgres = run.world.postgres
    counted = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'email_integration_deliveryattempt'::regclass"
    before = postgres.query(counted)[0][0]
    _amid_load(run)
    gave_in = 0
    for _ in range(3):
        try:
            with postgres.connect() as connection, connection.transaction():
                # The workers, who wait for less, are those who give in; but each looks only once.
                connection.execute("SET LOCAL deadlock_timeout = '4s'")
                connection.execute("LOCK TABLE email_integration_deliveryattempt IN EXCLUSIVE MODE")
                run.wait(lambda: postgres.query(waiting), "a worker that waits")
                connection.execute("UPDATE email_integration_delivery SET rings = rings")
        except psycopg.errors.DeadlockDetected:
            gave_in += 1
    run.finish_submitting()
    run.wait(lambda: postgres.query(counted)[0][0] > before + gave_in, "a deadlock that a worker lost")


def _not_serializable(run: Run) -> None:
    """Change each row again and again while the workers do."""
    postgres = run.world.postgres
    failure = "could not serialize access"
    before = postgres.log().count(failure)
    _amid_load(run)
    with postgres.connect() as connection:

        def failed() -> bool:
            with connection.transaction():
                connection.execute("UPDATE email_integration_delivery SET rings = rings")
                connection.execute("SELECT pg_sleep(0.05)")  # who waits for this has seen the rows before it
            return postgres.log().count(failure) >= before + 10

        run.wait(failed, "ten failures")
    run.finish_submitting()


def _locked(run: Run) -> None:
    _amid_load(run)
    with run.world.sqlite.locked():
        time.sleep(_A_WHILE)
    run.finish_submitting()


def _full(run: Run) -> None:
    _amid_load(run)
    with _no_room(run.world):
        time.sleep(_A_WHILE)
    run.finish_submitting()
    run.promise(run.refused > 0, "no submission was refused")


@contextlib.contextmanager
def _no_room(world: World) -> Iterator[None]:
    """Let no process of the world write beyond what any database file has long grown to."""
    everybody = world.processes()
    for pid in everybody:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (64 * 1024, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        # Those too that were forked meanwhile.
        for pid in {*everybody, *world.processes()}:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


CASES = [
    Case(group="database", name=name, setting=setting, act=act, seconds=60, slow=slow)
    for name, setting, act, slow in (
        ("restarted fast", _POSTGRESQL, _restarted("fast"), False),
        ("restarted immediately", _POSTGRESQL, _restarted("immediate"), False),
        ("read-only for a while", _POSTGRESQL, _read_only, True),
        ("deadlocks", _POSTGRESQL, _deadlocked, True),
        ("serialization failures", _SERIALIZABLE, _not_serializable, True),
        ("locked for a while", _SQLITE, _locked, False),
        ("disk full for a while", _SQLITE, _full, True),
    )
]
