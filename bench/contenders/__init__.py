"""Who is compared: add a ``Contender`` here and a small project in the folder of its name.

A project is ``settings`` and ``sending`` (``submit(number)`` and what else it can do: ``submit_together(numbers)``,
``prepare()``, ``flush()``); for Celery the package has its ``app``. ``driver`` runs it in an environment of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True, eq=False)
class Contender:
    """One way of sending mail. ``env`` makes a variant of the project.

    ``outcomes`` is the SQL that counts what is recorded of mails since ``{since}``; '' when nothing is.
    """

    name: str
    label: str
    environment: str
    project: str
    works: Literal["celery", "command", "itself"] = "celery"
    env: Mapping[str, str] = field(default_factory=dict)
    outcomes: str = ""
    #: Whether its tasks send nothing and leave a mark instead.
    marks: bool = False
    #: The Celery application, and the queues of its worker.
    app: str = ""
    queues: str = "celery"
    beat: bool = False


OURS = Contender(
    name="ours",
    label="this project",
    environment="ours",
    project="ours",
    app="config",
    queues="mail.high,mail,mail.bulk,mail.sweep",
    beat=True,
    env={"DJANGO_SETTINGS_MODULE": "config.settings"},
    outcomes="SELECT count(*) FROM email_integration_delivery WHERE finished_at > {since}",
)

_RESULTS = "SELECT count(*) FROM django_celery_results_taskresult WHERE date_done > {since}"


def _celery(name: str, label: str, *, outcomes: str = "", marks: bool = False, **env: str) -> Contender:
    return Contender(
        name=name,
        label=label,
        environment="celery",
        project="celery_send_mail",
        app="celery_send_mail",
        env=env,
        outcomes=outcomes,
        marks=marks,
    )


AS_INSTALLED = _celery("celery", "Celery + send_mail, django-db results", outcomes=_RESULTS, BENCH_RESULTS="django-db")
TUNED = _celery(
    "celery_tuned", "Celery + send_mail, the same, tuned", outcomes=_RESULTS, BENCH_RESULTS="django-db", BENCH_TUNED="1"
)
NO_RESULTS = _celery("celery_no_results", "Celery + send_mail, no results")
NOTHING = _celery("celery_nothing", "a Celery task that does nothing", marks=True, BENCH_TASK="nothing")
NOTHING_RESULTS = _celery(
    "celery_nothing_results",
    "the task that does nothing, django-db",
    outcomes=_RESULTS,
    marks=True,
    BENCH_TASK="nothing",
    BENCH_RESULTS="django-db",
)


def _celery_email(chunk: int, label: str) -> Contender:
    return Contender(
        name=f"celery_email_{chunk}",
        label=label,
        environment="django_celery_email",
        project="django_celery_email",
        app="django_celery_email",
        env={"BENCH_CHUNK": str(chunk)},
    )


CELERY_EMAIL = _celery_email(1, "django-celery-email (fork)")
CELERY_EMAIL_10 = _celery_email(10, "django-celery-email (fork), in tens")
CELERY_EMAIL_100 = _celery_email(100, "django-celery-email (fork), in hundreds")

POST_OFFICE = Contender(
    name="post_office",
    label="django-post-office",
    environment="django_post_office",
    project="django_post_office",
    works="command",
    outcomes="SELECT count(*) FROM post_office_email WHERE status = 0 AND created > {since}",
)
#: As it comes it has five threads in each of its processes, with a session each.
POST_OFFICE_TWO = dataclasses.replace(
    POST_OFFICE, name="post_office_two", label="django-post-office, one thread a process", env={"BENCH_THREADS": "1"}
)
MAILER = Contender(
    name="mailer",
    label="django-mailer",
    environment="django_mailer",
    project="django_mailer",
    works="command",
    outcomes="SELECT count(*) FROM mailer_messagelog WHERE when_attempted > {since}",
)
SMTPLIB = Contender(
    name="smtplib",
    label="smtplib, one session, prepared bytes",
    environment="celery",
    project="smtplib_session",
    works="itself",
)
