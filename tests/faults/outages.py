"""A database that restarts, refuses writes, is locked by others or has no space left."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable, Iterator

from .cases import Case, Run
from .world import TIMES, Setting, World

POSTGRESQL = Setting(database="postgresql")
#: A reply that cannot be recorded immediately has some time until it is lost.
_LONG_LEASE = (("LEASE", "20"), ("REPLY_TIMEOUT", "5"))
_PATIENT = Setting(database="postgresql", extra=_LONG_LEASE)
_SERIALIZABLE = Setting(
    database="postgresql", extra=(*_LONG_LEASE, ("PGOPTIONS", "-c default_transaction_isolation=serializable"))
)
_SQLITE = Setting()

#: How long a database is out of order, in seconds: longer than a lease, unless a setting has a long one.
_A_WHILE = float(TIMES["LEASE"]) + 0.5


def _amid_load(run: Run, mails: int = 100, arrived: int = 15) -> None:
    """Begin to submit, and wait until some mails have arrived."""
    run.begin_submitting(mails, pause=0.03)
    run.wait(run.arrived(arrived), "the first mails")


def _be_refused(run: Run) -> None:
    """Submit the rest, and some more in case that no submission was refused."""
    run.finish_submitting()
    run.submit(20)
    run.promise(run.refused > 0, "no submission was refused")


def _restarted(mode: str) -> Callable[[Run], None]:
    def act(run: Run) -> None:
        _amid_load(run)
        run.world.postgres.restart(mode)
        run.finish_submitting()

    return act


def _read_only(run: Run) -> None:
    # The server's reply to a mail in progress comes while it cannot be recorded.
    run.world.smtp.slow = 0.3
    _amid_load(run)
    with run.world.postgres.read_only():
        time.sleep(_A_WHILE)
        _be_refused(run)
    run.world.smtp.slow = 0.0
    run.submit(10)


def _read_only_at_the_reply(run: Run) -> None:
    """Refuse all writes from before a reply until some time after it, but not until the end of the lease."""
    postgres = run.world.postgres
    failure = "in a read-only transaction"
    before = postgres.log().count(failure)
    run.world.smtp.slow = 3.0
    _amid_load(run, mails=30, arrived=2)
    with postgres.read_only():
        run.world.smtp.slow = 0.0
        run.wait(lambda: postgres.log().count(failure) > before, "a refused statement")
        time.sleep(_A_WHILE)
        copies = run.world.smtp.copies()
        unrecorded = [message_id for message_id in _sending(run) if copies[message_id]]
        run.promise(bool(unrecorded), "no outcome was waiting to be recorded")
    run.finish_submitting()


def _sending(run: Run) -> list[str]:
    """Return the Message-IDs of the mails that are claimed now."""
    rows = run.world.database.query("SELECT message_id FROM email_integration_delivery WHERE batch <> ''")
    return [message_id for (message_id,) in rows]


def _attempts_locked(run: Run) -> None:
    """Lock the table in which a worker must record a known outcome."""
    postgres = run.world.postgres
    waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'email_integration_deliveryattempt'::regclass"
    _amid_load(run)
    for _ in range(3):
        with postgres.connect() as connection, connection.transaction():
            connection.execute("LOCK TABLE email_integration_deliveryattempt IN EXCLUSIVE MODE")
            run.wait(lambda: postgres.query(waiting), "a waiting worker")
    run.finish_submitting()


def _not_serializable(run: Run) -> None:
    """Change each row repeatedly while the workers change it."""
    postgres = run.world.postgres
    failure = "could not serialize access"
    before = postgres.log().count(failure)
    _amid_load(run)
    with postgres.connect() as connection:

        def failed() -> bool:
            with connection.transaction():
                connection.execute("UPDATE email_integration_delivery SET priority = priority")
                connection.execute("SELECT pg_sleep(0.05)")  # a waiting transaction has read the rows before
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
    with no_room(run.world):
        time.sleep(_A_WHILE)
        _be_refused(run)
    run.submit(10)


@contextlib.contextmanager
def no_room(world: World) -> Iterator[None]:
    """Allow the processes of the world to write only small files, so that database files cannot grow."""
    everybody = world.processes()
    for pid in everybody:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (64 * 1024, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        # Include processes that were forked meanwhile.
        for pid in {*everybody, *world.processes()}:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


CASES = [
    Case(group="database", name=name, setting=setting, act=act, doubts=doubts, slow=slow)
    for name, setting, act, doubts, slow in (
        ("restarted (fast shutdown)", POSTGRESQL, _restarted("fast"), None, False),
        ("restarted (immediate shutdown)", POSTGRESQL, _restarted("immediate"), None, False),
        ("read-only for longer than a lease", POSTGRESQL, _read_only, None, True),
        ("read-only from a reply on, for less than a lease", _PATIENT, _read_only_at_the_reply, range(1), True),
        ("table of attempts locked", _PATIENT, _attempts_locked, range(1), True),
        ("serialization failures", _SERIALIZABLE, _not_serializable, range(1), True),
        ("locked for a while", _SQLITE, _locked, None, False),
        ("disk full for a while", _SQLITE, _full, None, True),
    )
]
