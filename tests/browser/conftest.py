"""A logged-in browser, and screenshots for the guide: ``SCREENSHOTS=1`` writes them to docs/images/."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from playwright.sync_api import Browser, Page

from tests.headless_browser import browsing

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"


@pytest.fixture
def other_sites() -> Sequence[str]:
    """The other sites that pages link to. A module whose pages do so overrides this fixture."""
    return ()


@pytest.fixture
def locale() -> str:
    """The language of the browser. A test in another language overrides this fixture."""
    return "en-GB"


@pytest.fixture
def page(chromium: Browser, live_server: Any, other_sites: Sequence[str], locale: str) -> Iterator[Page]:
    """A browser page with an administrator logged in."""
    user = get_user_model().objects.create_superuser(username="kim", email="kim@example.com")
    client = Client()
    client.force_login(user)
    cookie = client.cookies["sessionid"].value
    with browsing(chromium, live_server.url, other_sites, locale) as page:
        page.context.add_cookies([{"name": "sessionid", "value": cookie, "url": live_server.url}])
        yield page


@pytest.fixture
def shot() -> Callable[..., None]:
    """``shot(page, "name")``: take a screenshot of the page for the guide, if this run takes screenshots.

    With ``dark`` it also takes ``name-dark`` in dark mode; afterwards the page is in light mode again.
    """

    def take(page: Page, name: str, *, of: str = "#container", dark: bool = False) -> None:
        if not os.environ.get("SCREENSHOTS"):
            return
        if dark:
            page.emulate_media(color_scheme="dark")
            take(page, f"{name}-dark", of=of)
            page.emulate_media(color_scheme="light")
        IMAGES.mkdir(parents=True, exist_ok=True)
        path = IMAGES / f"{name}.png"
        size = page.viewport_size
        assert size is not None
        # Make the window as tall as the page: Django's navigation sticks to the window.
        tall = page.evaluate("document.documentElement.scrollHeight")
        page.set_viewport_size({"width": size["width"], "height": tall})
        page.locator(of).screenshot(path=path, animations="disabled")
        page.set_viewport_size(size)
        if shutil.which("pngquant"):
            subprocess.run(["pngquant", "--force", "--ext", ".png", "--strip", "64", str(path)], check=True)

    return take
