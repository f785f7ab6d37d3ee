"""``config.settings`` for async views."""

from tests.base_settings import *  # noqa: F403 - all of them, that is the point

MIDDLEWARE: list[str] = []  # a sync one would have each view run in a thread
ROOT_URLCONF = "tests.acceptance.asgi_views"
