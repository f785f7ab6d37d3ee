"""Report problems at a worker's start: an unsupported pool, journals that do not last, or no mail queue."""

from __future__ import annotations

import logging
from typing import Any

from celery import concurrency, signals

from email_integration.sending import journal_place

from . import health

logger = logging.getLogger(__name__)

#: The pools that support sending mail, by Celery's name and by their module.
POOLS = {
    "prefork": "celery.concurrency.prefork",
    "threads": "celery.concurrency.thread",
    "gevent": "celery.concurrency.gevent",
    "solo": "celery.concurrency.solo",
}


@signals.worker_init.connect(weak=False)
def _refuse_other_pools(sender: Any = None, **kwargs: Any) -> None:
    """Stop a worker that would send mail in an unsupported pool. A worker that serves only other queues is left alone.

    Raises ``SystemExit`` with a line for the terminal, because the worker has not set up logging yet.
    """
    pool = concurrency.get_implementation(sender.pool_cls)
    if _is_one_of(pool, *POOLS.values()):
        return
    if _served(sender.app) & set(health.mail_queues()):
        path = f"{pool.__module__}:{pool.__qualname__}"
        aliases = concurrency.ALIASES  # type: ignore[attr-defined]  # not in its stub
        name = next((alias for alias, target in aliases.items() if target == path), path)
        raise SystemExit(
            f"email_integration cannot send mail with the pool {name!r}. Start the worker with "
            f"--pool {', '.join(list(POOLS)[:-1])} or {list(POOLS)[-1]}, or with --queues that contain no mail queue."
        )


@signals.worker_ready.connect(weak=False)
def _say_if_journals_do_not_last(sender: Any = None, **kwargs: Any) -> None:
    """Warn when this worker's journals cannot be kept, or are lost together with it: more mail is then in doubt."""
    if _served(sender.app) & set(health.mail_queues()):
        for problem in journal_place.problems(in_worker=True):
            logger.warning("%s %s", problem.text, problem.hint)


@signals.worker_ready.connect(weak=False)
def _say_if_no_mail_is_served(sender: Any = None, **kwargs: Any) -> None:
    """Warn about a worker that sends no mail: it may have other work, or its queues were forgotten."""
    served, wanted = _served(sender.app), health.mail_queues()
    if not served & set(wanted):
        logger.warning(
            "This worker serves no mail queue. Its queues are %s, and the mail queues are %s. If no other worker "
            "serves them, start one without --queues, or with --queues %s.",
            ", ".join(sorted(served)),
            ", ".join(wanted),
            ",".join(wanted),
        )


def forks(pool: Any) -> bool:
    """Return whether a worker's pool forks processes, and replaces each one that dies."""
    return _is_one_of(type(pool), POOLS["prefork"])


def _is_one_of(pool: type[Any], *modules: str) -> bool:
    """Return whether the pool or a base class is from these modules, without importing modules that may be missing."""
    return any(base.__module__ in modules for base in pool.__mro__)


def _served(app: Any) -> set[str]:
    return set(app.amqp.queues.consume_from)
