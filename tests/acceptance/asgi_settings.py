"""``config.settings`` for the async views."""

from tests.base_settings import *  # noqa: F403 - every setting is wanted

MIDDLEWARE: list[str] = []  # a synchronous middleware would run each view in a thread
ROOT_URLCONF = "tests.acceptance.asgi_views"
