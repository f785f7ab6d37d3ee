"""The app's automatic actions in a worker."""

import gc

from celery import signals

from email_integration.tasks import hooks


def test_what_is_loaded_at_the_start_of_a_worker_is_kept_out_of_garbage_collection() -> None:
    hook = hooks._keep_out_of_garbage_collection
    assert hook in [receiver for _, receiver in signals.worker_init.receivers]
    frozen = gc.get_freeze_count()
    try:
        hook()
        assert gc.get_freeze_count() - frozen > 10_000
    finally:
        gc.unfreeze()
