"""Mail dispatch for Django and Celery: live SMTP configuration, nothing lost, nothing sent twice."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .tasks.bulk import submit_many

__all__ = ["submit_many"]


def __getattr__(name: str) -> Any:
    # Not at import: it needs Django's models, which are not there yet when INSTALLED_APPS is read.
    if name == "submit_many":
        from .tasks.bulk import submit_many

        return submit_many
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
