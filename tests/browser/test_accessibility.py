"""Every page of this app, for screen readers and low vision, in light and dark mode: axe finds no violation."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import User
from playwright.sync_api import Page

from email_integration import routing
from email_integration.models import SendingPause, SMTPConfig, Status
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Deferred
from email_integration.routing import breaker
from tests.deliveries import pretend, submitted
from tests.history import tried
from tests.integration.admin_site import config

from .accessibility import complaints
from .steps import DELIVERIES, LIST, press

pytestmark = [pytest.mark.extra, pytest.mark.django_db(transaction=True)]

APP = "/admin/email_integration/"


def wrong(page: Page, name: str) -> list[str]:
    """Return the violations on the page as it is now, and those of its colours in dark mode."""
    found: list[str] = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        found += [f"{name}, {scheme}: {each}" for each in complaints(page, of_colours=scheme == "dark")]
    return found


def visited(page: Page, *addresses: str) -> list[str]:
    found: list[str] = []
    for address in addresses:
        reply = page.goto(address)
        assert reply is not None
        assert reply.ok, address
        found += wrong(page, address)
    return found


def test_pages_of_configurations(page: Page) -> None:
    """List, form, history, an old version, and the confirmations before deleting, deactivating or pausing."""
    active, other = config(is_active=True), config("Backup", host="", authentication="oauth")
    active.timeout = 20
    active.save()
    version = active.history.first()
    own = f"{LIST}{active.pk}/"
    found = visited(
        page,
        APP,
        LIST,
        f"{LIST}?q=nothing&is_active__exact=1",
        f"{LIST}add/",
        f"{own}change/",
        f"{own}history/",
        f"{own}history/{version.pk}/",
        f"{own}delete/",
        f"{LIST}pause/",
    )
    for action in ("Deactivate", "Delete selected SMTP Configurations"):
        page.goto(LIST)
        page.get_by_role("row").filter(has_text="Primary").locator("input.action-select").check()
        page.get_by_label("Action:").select_option(label=action)
        press(page, re.compile("^(Go|Run)"))
        found += wrong(page, action)
    page.goto(f"{LIST}{other.pk}/change/")
    press(page, "Save")
    found += wrong(page, "a form with errors")
    assert not found, "\n".join(found)


def test_pages_that_say_that_something_is_the_matter(page: Page, settings: Any) -> None:
    """A server at fault, a pause, redirected mail, an unreadable password."""
    stored = config(is_active=True)
    relay = routing.relay_of(stored)
    breaker.trip(relay, Deferred(cause=Cause.LOGIN, code=535, reason="the login is wrong"), probing=False)
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "REDIRECT_ALL_TO": ["staging@example.com"]}
    found = visited(page, LIST, f"{DELIVERIES}dashboard/")
    SendingPause.begin(reason="A restored backup")
    SMTPConfig.objects.filter(pk=stored.pk).update(password="nonsense")
    found += visited(page, LIST, f"{LIST}{stored.pk}/change/", f"{LIST}resume/", f"{DELIVERIES}dashboard/?period=week")
    assert not found, "\n".join(found)


def test_pages_of_deliveries(page: Page) -> None:
    """List, searched and filtered; a mail with its attempts, content and history; the confirmation of an action."""
    config(is_active=True)
    one = submitted("bob@example.com", subject="Your order", from_email="Hanna <noreply@example.com>")
    tried([one], reason="the server is busy and asks us to try again later (451 4.3.2)")
    failed = pretend(submitted(), status=Status.FAILED, cause="full", reason="the mailbox is full", has_content=False)
    kim: Any = User.objects.get()
    LogEntry.objects.log_actions(kim.pk, [one], CHANGE, change_message="Sent now.", single_object=True)
    own = f"{DELIVERIES}{one.pk}/"
    found = visited(
        page,
        DELIVERIES,
        f"{DELIVERIES}?q=order",
        f"{DELIVERIES}?status__exact=failed&priority=normal",
        f"{own}change/",
        f"{own}content/",
        f"{own}history/",
        f"{DELIVERIES}{failed.pk}/change/",
        f"{DELIVERIES}{failed.pk}/content/",
        f"{DELIVERIES}dashboard/?period=hour",
    )
    page.goto(DELIVERIES)
    page.locator("input.action-select").first.check()
    page.get_by_label("Action:").select_option(label="Cancel")
    press(page, re.compile("^(Go|Run)"))
    found += wrong(page, "what was done")
    assert not found, "\n".join(found)
