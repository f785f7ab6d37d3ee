"""Automatic work in Celery's processes: sweep at the start and from beat, prune, alert, and cancel revoked mail."""

from __future__ import annotations

import gc
import logging
import math
import threading
from typing import Any

from celery import Celery, signals
from celery._state import connect_on_app_finalize
from celery.schedules import crontab
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, InterfaceError, connections
from kombu.utils.functional import maybe_list

from email_integration import conf
from email_integration.fields import fingerprints
from email_integration.ledger import pooler, rows, transitions
from email_integration.message import content
from email_integration.metrics.exporter import worker_exporter

from . import names, periodic, serving  # noqa: F401  # importing them registers tasks and hooks
from .mail import sweep
from .wake_ups import sweep_options

logger = logging.getLogger(__name__)


@connect_on_app_finalize
def _schedule(app: Celery) -> None:
    """Add the beat entries, so that no project has to configure them."""
    app.add_periodic_task(
        _interval("SWEEP_INTERVAL"),
        app.signature(names.SWEEP),
        name="email_integration: wake workers for due mail",
        **_as_entry(sweep_options()),
    )
    app.add_periodic_task(
        # A time of day and not an interval, because an interval restarts with each start of beat.
        crontab(minute="17", hour="3"),
        app.signature(names.PRUNE),
        name="email_integration: delete old mail",
        **_as_entry(prune_options()),
    )
    if conf.get("ALERT_INTERVAL"):
        app.add_periodic_task(
            _interval("ALERT_INTERVAL"),
            app.signature(names.EVALUATE_ALERTS),
            name="email_integration: evaluate alerts",
            **_as_entry(sweep_options()),
        )


def _as_entry(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of an entry. django-celery-beat drops ``expires`` and uses this name; brokers ignore it."""
    return {**options, "expire_seconds": math.ceil(options["expires"])}


def _interval(key: str) -> float:
    """Return a setting in seconds, rounded up for django-celery-beat.

    django-celery-beat rounds down, and would turn half a second into none.
    """
    seconds = float(conf.get(key))
    in_database = any(str(app).startswith("django_celery_beat") for app in settings.INSTALLED_APPS)
    return math.ceil(seconds) if in_database else seconds


def prune_options() -> dict[str, Any]:
    """Return the options of ``prune``: the queue of the sweep, and a longer expiry."""
    return {**sweep_options(), "expires": 3600}


@signals.worker_ready.connect(weak=False)
def _sweep_at_start(sender: Any = None, **kwargs: Any) -> None:
    """Sweep at the start, so that lost work is found without waiting for beat."""
    try:
        sweep.apply_async(**sweep_options(), retry=False)
    except Exception as error:  # beat will sweep
        logger.warning("Could not sweep at the start of the worker (%s).", type(error).__name__)


@signals.worker_ready.connect(weak=False)
def _look_for_a_pooler(**kwargs: Any) -> None:
    """Log at the start why no mail can be sent. Each attempt would only report a database error."""
    try:
        found = pooler.loses_statements(rows.database())
    except (DatabaseError, InterfaceError) as error:  # code that needs the database reports it
        logger.debug("Could not check for a connection pooler (%s).", type(error).__name__)
        return
    if found:
        logger.error("%s %s", pooler.LOST, pooler.HINT)


@signals.worker_init.connect(weak=False)
def _keep_out_of_garbage_collection(**kwargs: Any) -> None:
    """Exclude the objects loaded before the first mail from garbage collection. They live as long as the process.

    There are some hundred thousand of them. A full collection would stop all sending of a process for a tenth of a
    second. It would also write to each object, so a pool process would no longer share their memory with the main
    process.
    """
    gc.freeze()


@signals.worker_init.connect(weak=False)
def _cancel_at_once(**kwargs: Any) -> None:
    """Make ``control.revoke()`` cancel deliveries, also those that are submitted afterwards.

    Celery's own command works with message ids, and a mail has no message.
    """
    from celery.worker import control  # not in processes that are not workers

    revoke: Any = control.revoke  # type: ignore[attr-defined]  # its stubs lack the commands

    @control.control_command(variadic="task_id", signature="[id1 [id2 [... [idN]]]]", name="revoke")
    def cancel_and_revoke(state: Any, task_id: Any, **kwargs: Any) -> Any:
        _cancel(*maybe_list(task_id) or ())
        return revoke(state, task_id, **kwargs)


@signals.worker_init.connect(weak=False)
def _answer_whether_it_sees(**kwargs: Any) -> None:
    """Let ``validate_notification_setup`` ask whether a worker shares the contents' storage and the keys."""
    from celery.worker import control  # not in processes that are not workers

    @control.inspect_command(name=names.SEES, args=[("file", str)], signature="NAME")
    def sees(state: Any, file: str, **kwargs: Any) -> dict[str, bool]:
        return {"sees": content.has_file(file)}

    @control.inspect_command(name=names.KEYS)
    def keys(state: Any, **kwargs: Any) -> dict[str, list[str]]:
        try:
            return {"keys": list(fingerprints())}
        except ImproperlyConfigured:
            return {"keys": []}


def _cancel(*delivery_ids: str) -> None:
    """Cancel deliveries in the worker's main process."""
    connection = connections[rows.database()]
    was_open = connection.connection is not None
    try:
        for delivery_id in delivery_ids:
            transitions.cancel(delivery_id)
    except (DatabaseError, InterfaceError) as error:
        logger.error("Could not cancel revoked mails (%s).", type(error).__name__)
    finally:
        if not was_open:
            # A pool process that is forked later would inherit it.
            connection.close()


@signals.worker_process_shutdown.connect(weak=False)  # prefork
@signals.worker_shutdown.connect(weak=False)  # every other pool
def _say_quit(**kwargs: Any) -> None:
    """Close the SMTP sessions with QUIT, and the journal, so that other processes need not recover it."""
    # Imported only where mail is sent, as in _recover().
    from email_integration.sending import own_journal
    from email_integration.sending.sessions import pool

    pool.close()
    own_journal.close()


@signals.worker_process_init.connect(weak=False)  # prefork, which gives a process four seconds for this
def _recover_at_start(**kwargs: Any) -> None:
    """Recover the mails of dead processes on this machine. This process may replace one of them."""
    threading.Thread(target=_recover, name="email_integration recovery", daemon=True).start()


@signals.worker_ready.connect(weak=False)
def _recover_where_none_forks(sender: Any = None, **kwargs: Any) -> None:
    """Recover at the start in all other pools.

    The main process of prefork has no such thread. It replaces processes that die, and a process that is forked during
    an import or a transaction of another thread inherits their locks forever: no task would ever end there.
    """
    if not serving.forks(sender.pool):
        _recover_at_start()


def _recover() -> None:
    from email_integration.sending import recovery

    try:
        recovery.look_for_journals()
    finally:
        connections.close_all()


@signals.worker_init.connect(weak=False)
def _count(**kwargs: Any) -> None:
    """Start counting before there are processes, so that each of them counts."""
    worker_exporter.begin()


@signals.worker_ready.connect(weak=False)
def _serve_metrics(**kwargs: Any) -> None:
    worker_exporter.serve()


@signals.worker_shutdown.connect(weak=False)
def _end_metrics(**kwargs: Any) -> None:
    worker_exporter.end()
