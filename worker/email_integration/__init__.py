"""Mail dispatch for Django and Celery: live SMTP configuration, no lost mail, no mail sent twice without a record."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from email_integration.message.options import MailKeywords, MailOptions

    from .aio import acancel, adiscard, arelease, aresend, asend_email, asend_now, asubmit, asubmit_many
    from .tasks.bulk import submit_many

__all__ = [
    "MailKeywords",
    "MailOptions",
    "acancel",
    "adiscard",
    "arelease",
    "aresend",
    "asend_email",
    "asend_now",
    "asubmit",
    "asubmit_many",
    "submit_many",
]

_ELSEWHERE = {"MailKeywords": "message.options", "MailOptions": "message.options", "submit_many": "tasks.bulk"}


def __getattr__(name: str) -> Any:
    # Import on first access: the modules need Django's models, which do not exist yet when INSTALLED_APPS is read.
    if name in __all__:
        return getattr(import_module(f".{_ELSEWHERE.get(name, 'aio')}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
