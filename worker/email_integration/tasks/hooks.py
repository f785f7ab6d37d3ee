"""What the app does by itself in Celery's processes: sweep at the start and by beat, cancel what is revoked."""

from __future__ import annotations

import logging
from typing import Any

from celery import Celery, signals
from celery._state import connect_on_app_finalize
from django.db import connections

from email_integration import conf
from email_integration.delivery import ledger
from email_integration.delivery.dispatch import pool

from . import names, sweep

logger = logging.getLogger(__name__)


@connect_on_app_finalize
def _schedule(app: Celery) -> None:
    """Bring the beat entry along, so that there is none to forget."""
    interval = conf.get("SWEEP_INTERVAL")
    app.add_periodic_task(
        interval,
        app.signature(names.SWEEP),
        name="email_integration: ring for deliveries that are due",
        expires=interval,
        **_sweep_options(),
    )


@signals.worker_ready.connect(weak=False)
def _sweep_at_start(sender: Any = None, **kwargs: Any) -> None:
    """What was lost while no worker ran is found without waiting for beat."""
    try:
        sweep.apply_async(**_sweep_options(), retry=False)
    except Exception as error:  # beat will
        logger.warning("Could not sweep at the start of the worker (%s).", type(error).__name__)


@signals.task_revoked.connect(weak=False)
def _revoked(sender: Any = None, request: Any = None, **kwargs: Any) -> None:
    """``revoke()`` cancels the delivery, not just the ring; called in the worker's main process."""
    if getattr(sender, "name", "") != names.DELIVER or request is None:
        return
    connection = connections[ledger.database()]
    was_open = connection.connection is not None
    try:
        ledger.cancel(request.id)
    finally:
        if not was_open:
            # A pool process that is forked later would inherit it.
            connection.close()


@signals.worker_process_shutdown.connect(weak=False)
def _say_quit(**kwargs: Any) -> None:
    """Leave no SMTP server waiting for a session that will not come back."""
    pool.close()


def _sweep_options() -> dict[str, Any]:
    return {"queue": conf.get("SWEEP_QUEUE")} if conf.get("SWEEP_QUEUE") else {}
