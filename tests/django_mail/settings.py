"""The tests' settings for one process alone: database and cache in memory, tasks run where they are called."""

import django

from tests.settings import *  # noqa: F403 - all of them, that is the point

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
CELERY_TASK_ALWAYS_EAGER = True

if django.VERSION >= (6, 1):
    # Django's tests are about projects with MAILERS and about projects without: each class says what it needs.
    del MAILERS  # noqa: F821 - from config.settings
