"""The system's Chromium, with pages that report errors."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from config.local import processes

CHROMIUM = shutil.which("chromium")
#: In milliseconds, as Playwright expects.
PATIENCE = 1000 * processes.PATIENCE
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Start the system's Chromium, for the tests of one file."""
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is missing: it is in tests/debian-packages.txt")
        pytest.skip("chromium is not installed")
    # Playwright keeps an event loop in this thread, though the code here is synchronous. Other files must not see this.
    before = os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE")
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS])
        yield browser
        browser.close()
    if before is None:
        del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


def _is_of(asked: Request, *sites: str) -> bool:
    return asked.url.startswith((*sites, "data:"))


def _is_refused(message: ConsoleMessage, site: str) -> bool:
    """Return whether our policy has blocked a part of one of our pages.

    Attempts of axe have no address, and the policy of a mail's HTML exists to block.
    """
    ours = message.location["url"].startswith(site) and "/content/html/" not in message.location["url"]
    return ours and "Content Security Policy" in message.text and "'none'" not in message.text


@contextmanager
def browsing(chromium: Browser, site: str, other_sites: Sequence[str] = (), locale: str = "en-GB") -> Iterator[Page]:
    """Open a page. At the end, script errors, missing files and resources blocked by our policy fail the test.

    Requests to sites other than this one and ``other_sites`` (prefixes) fail it too.
    """
    context = chromium.new_context(
        base_url=site, viewport={"width": 1440, "height": 700}, locale=locale, timezone_id="UTC"
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("response", lambda reply: wrong.append(reply.url) if reply.status in (404, 500) else None)
    page.on("request", lambda asked: None if _is_of(asked, site, *other_sites) else wrong.append(asked.url))
    page.on("console", lambda message: wrong.append(message.text) if _is_refused(message, site) else None)
    # The browser reports a request even if a policy of the page has blocked it.
    page.on("requestfailed", lambda asked: wrong.remove(asked.url) if asked.failure == "csp" else None)
    yield page
    context.close()
    assert wrong == []
