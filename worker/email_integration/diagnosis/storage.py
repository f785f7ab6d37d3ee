"""The storage of large contents: can it be written, and do the workers read what is written here?"""

from __future__ import annotations

from email_integration import conf
from email_integration.message import content
from email_integration.tasks import health

from .findings import Finding, error, info, ok

_HINT = "Have all processes that submit mail, and all workers, use one storage: a shared volume, or object storage."


def diagnose_storage(*, patience: float) -> list[Finding]:
    """Write a file, and ask the workers whether they see it; nothing when the project has no such storage.

    Workers have ``patience`` seconds to answer, which are waited for in full.
    """
    alias = conf.get("PAYLOAD_STORAGE")
    try:
        if content.storage_of_contents() is None:
            return []
    except Exception as failure:  # each storage has its own
        return [
            error("storage", f"The storage “{alias}” cannot be used ({type(failure).__name__})", "Correct STORAGES.")
        ]
    name = content.save_file(b"a probe of validate_notification_setup")
    if not name:
        return [
            error(
                "storage",
                f"The storage “{alias}” takes no file, so the contents of large mails go into the database",
                "See the log for the reason; check its space and its permissions.",
            )
        ]
    try:
        if not content.has_file(name):
            return [error("storage", f"The storage “{alias}” does not give back what it was given", "Check it.")]
        return [ok("storage", f"The storage “{alias}” takes files and gives them back"), *_workers(name, patience)]
    finally:
        content.remove_file(name)


def _workers(name: str, patience: float) -> list[Finding]:
    """Which workers do not see the file."""
    seen = health.who_sees(name, timeout=patience)
    blind = [worker for worker, sees in seen.items() if not sees]
    if not seen:
        return [info("storage.workers", "Whether workers see them too cannot be told: none answers")]
    return [
        error("storage.workers", f"The worker {worker} does not see the files that are stored here", _HINT)
        for worker in blind
    ] or [ok("storage.workers", "The workers see the files that are stored here")]
