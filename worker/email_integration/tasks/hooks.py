"""What the app does by itself in Celery's processes: sweep at the start and by beat, prune, alert, cancel what is
revoked.
"""

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
    """Bring the beat entries along, so that there is none to forget."""
    app.add_periodic_task(
        _interval("SWEEP_INTERVAL"),
        app.signature(names.SWEEP),
        name="email_integration: wake workers for what is due",
        **_as_entry(sweep_options()),
    )
    app.add_periodic_task(
        # An hour of the day and not an interval, which would begin anew with each start of beat.
        crontab(minute="17", hour="3"),
        app.signature(names.PRUNE),
        name="email_integration: delete what is kept no longer",
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
    """The options of an entry. django-celery-beat drops ``expires``, and has this name for it; brokers ignore it."""
    return {**options, "expire_seconds": math.ceil(options["expires"])}


def _interval(key: str) -> float:
    """The seconds of a setting; whole ones for django-celery-beat, which cuts them off: half a second would be none."""
    seconds = float(conf.get(key))
    in_database = any(str(app).startswith("django_celery_beat") for app in settings.INSTALLED_APPS)
    return math.ceil(seconds) if in_database else seconds


def prune_options() -> dict[str, Any]:
    """It goes where the sweep goes, and is of use for longer."""
    return {**sweep_options(), "expires": 3600}


@signals.worker_ready.connect(weak=False)
def _sweep_at_start(sender: Any = None, **kwargs: Any) -> None:
    """What was lost while no worker ran is found without waiting for beat."""
    try:
        sweep.apply_async(**sweep_options(), retry=False)
    except Exception as error:  # beat will
        logger.warning("Could not sweep at the start of the worker (%s).", type(error).__name__)


@signals.worker_ready.connect(weak=False)
def _look_for_a_pooler(**kwargs: Any) -> None:
    """Say at the start why no mail will leave: each attempt would only say that the database has failed."""
    try:
        found = pooler.loses_statements(rows.database())
    except (DatabaseError, InterfaceError) as error:  # what needs it will say so
        logger.debug("Whether there is a pooler cannot be told (%s).", type(error).__name__)
        return
    if found:
        logger.error("%s %s", pooler.LOST, pooler.HINT)


@signals.worker_init.connect(weak=False)
def _keep_out_of_garbage_collection(**kwargs: Any) -> None:
    """Have no collection look through what is loaded before the first mail, which stays as long as the process.

    That is some hundred thousand objects: a full collection stops all that a process sends for a tenth of a second. It
    also writes to each of them, so that a pool process would share none of their memory with the main one.
    """
    gc.freeze()


@signals.worker_init.connect(weak=False)
def _cancel_at_once(**kwargs: Any) -> None:
    """Let ``control.revoke()`` cancel deliveries, also those that are submitted only afterwards.

    Celery's own goes by the ids of messages, of which a mail has none.
    """
    from celery.worker import control  # not in processes that are no workers

    revoke: Any = control.revoke  # type: ignore[attr-defined]  # its stubs lack the commands

    @control.control_command(variadic="task_id", signature="[id1 [id2 [... [idN]]]]", name="revoke")
    def cancel_and_revoke(state: Any, task_id: Any, **kwargs: Any) -> Any:
        _cancel(*maybe_list(task_id) or ())
        return revoke(state, task_id, **kwargs)


@signals.worker_init.connect(weak=False)
def _answer_whether_it_sees(**kwargs: Any) -> None:
    """Let ``validate_notification_setup`` ask whether a worker shares the storage of contents, and the keys."""
    from celery.worker import control  # not in processes that are no workers

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
    """Cancel from the worker's main process."""
    connection = connections[rows.database()]
    was_open = connection.connection is not None
    try:
        for delivery_id in delivery_ids:
            transitions.cancel(delivery_id)
    except (DatabaseError, InterfaceError) as error:
        logger.error("Could not cancel what was revoked (%s).", type(error).__name__)
    finally:
        if not was_open:
            # A pool process that is forked later would inherit it.
            connection.close()


@signals.worker_process_shutdown.connect(weak=False)  # prefork
@signals.worker_shutdown.connect(weak=False)  # every other pool
def _say_quit(**kwargs: Any) -> None:
    """Leave no SMTP server waiting for a session that will not come back, and no journal for others to look at."""
    # Only where mail is sent, as below.
    from email_integration.sending import own_journal
    from email_integration.sending.sessions import pool

    pool.close()
    own_journal.close()


@signals.worker_process_init.connect(weak=False)  # prefork, whose processes are given four seconds for this
def _recover_at_start(**kwargs: Any) -> None:
    """Have what processes of this machine had in hand that have died: the one before this may be one of them."""
    threading.Thread(target=_recover, name="email_integration recovery", daemon=True).start()


@signals.worker_ready.connect(weak=False)
def _recover_where_none_forks(sender: Any = None, **kwargs: Any) -> None:
    """The same under every other pool.

    The main process of prefork has no such thread. It replaces a process that dies, and what is forked amid an import
    or a transaction of another thread has their locks for ever: no task would end there.
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
    """Before there are processes, so that each of them counts."""
    worker_exporter.begin()


@signals.worker_ready.connect(weak=False)
def _serve_metrics(**kwargs: Any) -> None:
    worker_exporter.serve()


@signals.worker_shutdown.connect(weak=False)
def _end_metrics(**kwargs: Any) -> None:
    worker_exporter.end()
