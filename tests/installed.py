"""Use the app as users install it: ``python -I tests/installed.py VERSION``, in the environment of its wheel.

``make release-check`` runs it. It fails if the wheel lacks a file or its metadata lacks a dependency. ``-I`` keeps the
checkout off the path.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import django
from cryptography.fernet import Fernet
from django.conf import settings
from django.core.management import call_command

PACKAGE = "celery-mail-dispatch"

#: The modules with the public names; see docs/stability.md.
MODULES = (
    "email_integration",
    *(
        f"email_integration.{name}"
        for name in (
            "backends.direct",
            "backends.queued",
            "delivery",
            "exceptions",
            "logs",
            "models",
            "signals",
            "tasks",
            "testing",
            "urls",
        )
    ),
)


def configure() -> None:
    """Set up a project like that of the README. No service is asked for anything."""
    contrib = ("admin", "auth", "contenttypes", "messages", "sessions", "staticfiles")
    middleware = (
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "simple_history.middleware.HistoryRequestMiddleware",
    )
    processors = [
        "django.template.context_processors.request",
        "django.contrib.auth.context_processors.auth",
        "django.contrib.messages.context_processors.messages",
    ]
    settings.configure(
        SECRET_KEY=Fernet.generate_key().decode(),
        INSTALLED_APPS=[
            *(f"django.contrib.{name}" for name in contrib),
            "django_celery_results",
            "simple_history",
            "email_integration",
        ],
        MIDDLEWARE=middleware,
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {"context_processors": processors},
            }
        ],
        ROOT_URLCONF="email_integration.urls",
        STATIC_URL="static/",
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        CACHES={
            "default": {
                "BACKEND": "django.core.cache.backends.redis.RedisCache",
                "LOCATION": "redis://127.0.0.1:6379/0",
            }
        },
        CELERY_BROKER_URL="redis://127.0.0.1:6379/0",
        CELERY_RESULT_BACKEND="django-db",
        EMAIL_INTEGRATION={"SMTP_PASSWORD_KEYS": [Fernet.generate_key().decode()]},
    )
    django.setup()


def main(expected: str) -> None:
    configure()
    for name in MODULES:
        module = import_module(name)
        assert module.__file__ is not None
        assert Path(module.__file__).is_relative_to(sys.prefix), module.__file__
        for public in getattr(module, "__all__", ()):
            getattr(module, public)
    assert version(PACKAGE) == expected, f"{version(PACKAGE)} is installed, not {expected}"
    call_command("check", fail_level="WARNING")
    call_command("makemigrations", "email_integration", check_changes=True, dry_run=True, verbosity=0)
    call_command("migrate", verbosity=0)
    print(f"{PACKAGE} {expected} works on Python {sys.version.split()[0]} and Django {django.get_version()}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
