"""The system's Chromium, and pages in it that tell what went wrong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from config.local import processes

CHROMIUM = shutil.which("chromium")
#: In milliseconds, as Playwright has it.
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
    """The system's Chromium, for the tests of one file."""
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is missing: it is in tests/debian-packages.txt")
        pytest.skip("chromium is not installed")
    # Playwright keeps an event loop in this thread, though nothing here is asynchronous; not for other files.
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
    """Whether our policy stopped something of a page of ours.

    What axe tries has no address, and the policy of a mail's HTML is there to stop things.
    """
    ours = message.location["url"].startswith(site) and "/content/html/" not in message.location["url"]
    return ours and "Content Security Policy" in message.text and "'none'" not in message.text


@contextmanager
def browsing(chromium: Browser, site: str, other_sites: Sequence[str] = ()) -> Iterator[Page]:
    """A page of a browser; at the end an error in a script, a missing file, and what our policy stopped are errors.

    So is a request to another site than this one and those that begin as ``other_sites`` says.
    """
    context = chromium.new_context(
        base_url=site, viewport={"width": 1440, "height": 700}, locale="en-GB", timezone_id="UTC"
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("response", lambda reply: wrong.append(reply.url) if reply.status in (404, 500) else None)
    page.on("request", lambda asked: None if _is_of(asked, site, *other_sites) else wrong.append(asked.url))
    page.on("console", lambda message: wrong.append(message.text) if _is_refused(message, site) else None)
    # What a policy of the page has stopped was asked for all the same.
    page.on("requestfailed", lambda asked: wrong.remove(asked.url) if asked.failure == "csp" else None)
    yield page
    context.close()
    assert wrong == []
