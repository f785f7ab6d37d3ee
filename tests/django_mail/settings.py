"""The tests' settings for a single process: database and cache in memory, tasks run where they are called."""

import django

from tests.settings import *  # noqa: F403 - every setting is wanted

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
CELERY_TASK_ALWAYS_EAGER = True

if django.VERSION >= (6, 1):
    # Django's tests cover projects with and without MAILERS: each class sets what it needs.
    del MAILERS  # noqa: F821 - from config.settings
