"""Diagnose the storage of large contents: whether this process can write it and workers can read the same files."""

from __future__ import annotations

from email_integration import conf
from email_integration.message import content
from email_integration.tasks import health

from .findings import Finding, error, info, ok

_HINT = "All workers and all processes that submit mail must use one storage: a shared volume, or object storage."


def diagnose_storage(*, patience: float) -> list[Finding]:
    """Write a file, and ask the workers whether they see it.

    Waits the full ``patience`` seconds for the answers. Returns an empty list if the project has no such storage.
    """
    alias = conf.get("PAYLOAD_STORAGE")
    try:
        if content.storage_of_contents() is None:
            return []
    except Exception as failure:  # each storage has its own exceptions
        return [
            error("storage", f"The storage “{alias}” cannot be used ({type(failure).__name__})", "Correct STORAGES.")
        ]
    name = content.save_file(b"a probe of validate_notification_setup")
    if not name:
        return [
            error(
                "storage",
                f"The storage “{alias}” does not accept files, so the database stores the contents of large mails",
                "The log shows the reason. Check the free space and the permissions of the storage.",
            )
        ]
    try:
        if not content.has_file(name):
            return [
                error("storage", f"The storage “{alias}” does not return a file that it stored", "Check the storage.")
            ]
        return [ok("storage", f"The storage “{alias}” stores files and returns them"), *_workers(name, patience)]
    finally:
        content.remove_file(name)


def _workers(name: str, patience: float) -> list[Finding]:
    """Report the workers that do not see the file ``name``."""
    seen = health.who_sees(name, timeout=patience)
    blind = [worker for worker, sees in seen.items() if not sees]
    if not seen:
        return [info("storage.workers", "No worker answered, so it is not known whether workers see these files")]
    return [
        error("storage.workers", f"The worker {worker} does not see the files that this process stores", _HINT)
        for worker in blind
    ] or [ok("storage.workers", "The workers see the files that this process stores")]
