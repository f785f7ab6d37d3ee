"""The compared contenders: add a ``Contender`` here, and a small project in a folder with its name.

A project has ``settings`` and ``sending`` (``submit(number)`` and optional functions: ``submit_together(numbers)``,
``prepare()``, ``flush()``). For Celery the package has its ``app``. ``driver`` runs it in its own environment.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True, eq=False)
class Contender:
    """One way of sending mail. ``env`` makes a variant of the project.

    ``outcomes`` is the SQL that counts the outcomes recorded since ``{since}``, or '' if none are recorded.
    """

    name: str
    label: str
    environment: str
    project: str
    works: Literal["celery", "command", "itself"] = "celery"
    env: Mapping[str, str] = field(default_factory=dict)
    outcomes: str = ""
    #: Whether its tasks write a mark instead of sending.
    marks: bool = False
    #: The Celery application, and the queues of its worker.
    app: str = ""
    queues: str = "celery"
    beat: bool = False
    #: How many processes its worker has.
    processes: int = 2


#: How many sessions this project uses by default: SESSIONS of each of two processes.
OUR_SESSIONS = 8

#: The number of sessions for a distant server.
OUR_SESSIONS_FAR = 20

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

#: With the same number of sessions as its peers have by default.
OURS_SINGLE = dataclasses.replace(
    OURS, name="ours_single", label="this project, SESSIONS=1", env={**OURS.env, "SESSIONS": "1"}
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


def _wide(contender: Contender) -> Contender:
    """Return the contender with as many processes as this project has sessions."""
    return dataclasses.replace(
        contender,
        name=f"{contender.name}_wide",
        label=f"{contender.label}, {OUR_SESSIONS} processes",
        processes=OUR_SESSIONS,
    )


AS_INSTALLED = _celery("celery", "Celery + send_mail, django-db results", outcomes=_RESULTS, BENCH_RESULTS="django-db")
TUNED = _celery(
    "celery_tuned",
    "Celery + send_mail, django-db results, tuned",
    outcomes=_RESULTS,
    BENCH_RESULTS="django-db",
    BENCH_TUNED="1",
)
NO_RESULTS = _celery("celery_no_results", "Celery + send_mail, no results")
NO_RESULTS_WIDE = _wide(NO_RESULTS)
#: As a project would write it if its server limits the rate: refused mail is retried.
RETRYING = _celery("celery_retrying", "Celery + send_mail, autoretry_for, retry_backoff", BENCH_RETRIES="1")
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


CELERY_EMAIL_10_WIDE = _wide(CELERY_EMAIL_10)
CELERY_EMAIL_100_WIDE = _wide(CELERY_EMAIL_100)

POST_OFFICE = Contender(
    name="post_office",
    label="django-post-office",
    environment="django_post_office",
    project="django_post_office",
    works="command",
    outcomes="SELECT count(*) FROM post_office_email WHERE status = 0 AND created > {since}",
)


def _post_office(threads: int, words: str) -> Contender:
    """Return django-post-office; by default each of its processes has five threads, with one session each."""
    return dataclasses.replace(
        POST_OFFICE,
        name=f"post_office_{threads}",
        label=f"django-post-office, {words} a process",
        env={"BENCH_THREADS": str(threads)},
    )


POST_OFFICE_TWO = _post_office(1, "one thread")
POST_OFFICE_WIDE = _post_office(OUR_SESSIONS // 2, "four threads")

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
