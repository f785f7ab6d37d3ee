"""Says at a worker's start what stands in its way: the wrong pool, no lasting journals, none of the mail queues."""

from __future__ import annotations

import logging
from typing import Any

from celery import concurrency, signals

from email_integration.sending import journal_place

from . import health

logger = logging.getLogger(__name__)

#: The pools that mail is sent under, by Celery's name and by the module that has it.
POOLS = {
    "prefork": "celery.concurrency.prefork",
    "threads": "celery.concurrency.thread",
    "gevent": "celery.concurrency.gevent",
    "solo": "celery.concurrency.solo",
}


@signals.worker_init.connect(weak=False)
def _refuse_other_pools(sender: Any = None, **kwargs: Any) -> None:
    """End a worker that would send mail under another pool. One that serves other queues only is left alone.

    Raises ``SystemExit`` with a line for the terminal: the worker has not set up logging yet.
    """
    pool = concurrency.get_implementation(sender.pool_cls)
    if _is_one_of(pool, *POOLS.values()):
        return
    if _served(sender.app) & set(health.mail_queues()):
        path = f"{pool.__module__}:{pool.__qualname__}"
        aliases = concurrency.ALIASES  # type: ignore[attr-defined]  # not in its stub
        name = next((alias for alias, target in aliases.items() if target == path), path)
        raise SystemExit(
            f"email_integration cannot send mail under the pool {name!r}. Start the worker with "
            f"--pool {', '.join(list(POOLS)[:-1])} or {list(POOLS)[-1]}, or with --queues that carry no mail."
        )


@signals.worker_ready.connect(weak=False)
def _say_if_journals_do_not_last(sender: Any = None, **kwargs: Any) -> None:
    """Warn where it costs mail in doubt that this worker's journals cannot be kept, or end with it."""
    if _served(sender.app) & set(health.mail_queues()):
        for problem in journal_place.problems(in_worker=True):
            logger.warning("%s %s", problem.text, problem.hint)


@signals.worker_ready.connect(weak=False)
def _say_if_no_mail_is_served(sender: Any = None, **kwargs: Any) -> None:
    """Warn of a worker that sends no mail: it may be one with other work, or one whose queues were forgotten."""
    served, wanted = _served(sender.app), health.mail_queues()
    if not served & set(wanted):
        logger.warning(
            "This worker serves no mail queue: it takes from %s. Mail waits in %s; unless another worker serves them, "
            "start one without --queues, or with --queues %s.",
            ", ".join(sorted(served)),
            ", ".join(wanted),
            ",".join(wanted),
        )


def forks(pool: Any) -> bool:
    """Whether a worker's pool forks processes, one more for each that dies."""
    return _is_one_of(type(pool), POOLS["prefork"])


def _is_one_of(pool: type[Any], *modules: str) -> bool:
    """Whether the pool, or what it is made from, is of these modules: to import them would load what is not there."""
    return any(base.__module__ in modules for base in pool.__mro__)


def _served(app: Any) -> set[str]:
    return set(app.amqp.queues.consume_from)
