"""The dashboard, in a browser: by eye, with a screen reader, on a phone, in dark mode."""

from __future__ import annotations

import datetime as dt
import itertools
import re

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from email_integration.models import Delivery, Priority, Status
from email_integration.outcomes.causes import Cause
from tests.deliveries import submitted
from tests.history import ended, tried
from tests.integration.admin_site import config

from .accessibility import complaints
from .steps import DELIVERIES, Shot

pytestmark = [pytest.mark.extra, pytest.mark.django_db(transaction=True)]

APP = "/admin/email_integration/"
DASHBOARD = f"{DELIVERIES}dashboard/"

#: Mails in each hour of an ordinary day, the busiest hour at noon; seconds that they took; deferred and failed ones.
BUSY = (3, 2, 2, 1, 2, 6, 14, 31, 58, 72, 80, 77, 91, 84, 79, 74, 66, 52, 40, 29, 21, 15, 9, 5)
TOOK = (0.3, 0.4, 0.3, 0.6, 2.4)
PUT_OFF = {9: 4, 10: 17, 11: 6, 14: 2, 20: 1}
FAILED = {4: 1, 10: 3, 11: 1, 16: 2}


def a_day() -> None:
    """Create deliveries of the last day; some have failed and some are waiting."""
    now = timezone.now()
    for ago, (number, took) in enumerate(zip(BUSY, itertools.cycle(TOOK))):
        at = now - dt.timedelta(hours=23 - ago, minutes=5)
        for share, slow in ((0.9, 1.0), (0.1, 4.0)):
            ended(max(1, round(number * share)), at=at, every=2, took=took * slow)
        ended(1 + number // 9, at=at, every=5, took=40 * took, priority=Priority.BULK, smtp_config="Newsletter")
        if ago in PUT_OFF:
            tried(ended(PUT_OFF[ago], at=at, took=90))
        if ago in FAILED:
            why = {"cause": Cause.NO_MAILBOX.value, "reason": f"{Cause.NO_MAILBOX.words} (550 5.1.1)"}
            lost = ended(FAILED[ago], at=at, status=Status.FAILED, priority=Priority.BULK, **why)
            tried(lost, outcome=Status.FAILED, **why)
    for _ in range(3):
        submitted()
    doubtful = submitted()
    Delivery.objects.filter(pk=doubtful.pk).update(status=Status.IN_DOUBT, next_at=None)


def test_it_is_read_without_a_manual(page: Page, shot: Shot) -> None:
    """Numbers, charts and their table, by eye and screen reader, in light and dark mode, on large and small screens."""
    config(is_active=True)
    a_day()
    page.goto(APP)
    page.get_by_role("link", name="Dashboard").click()
    for words in ("through “Primary”", "3 queued", "the server says the mailbox does not exist"):
        expect(page.locator("#main")).to_contain_text(words)
    for name in ("Accepted", "Deferred: 30", "Failed: 7", "Time from submission to acceptance"):
        expect(page.get_by_role("img", name=name)).to_be_visible()
    shot(page, "dashboard", dark=True)
    page.emulate_media(color_scheme="dark")
    page.get_by_text("The same figures as a table").click()
    expect(page.get_by_role("table").first).to_be_visible()
    assert complaints(page) == []
    for name in ("SMTP configuration", "Priority"):
        table = page.get_by_role("region", name=name).get_by_role("table")
        expect(table.get_by_role("columnheader")).to_have_text(
            [name, "Accepted", "Deferred", "Failed", "median", "p95"]
        )
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert complaints(page) == []


def test_it_is_narrowed_and_leads_to_the_mails(page: Page) -> None:
    """It is filtered by period, priority and configuration. Each number links to the list of the mails it counts."""
    config(is_active=True)
    a_day()
    page.goto(DELIVERIES)
    page.get_by_role("link", name="Dashboard").click()
    page.get_by_role("link", name="Last week").click()
    page.get_by_role("combobox", name="priority").select_option("bulk")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("link", name="Last week")).to_have_attribute("aria-current", "true")
    expect(page.get_by_role("img", name="Failed: 7")).to_be_visible()
    beside = page.get_by_role("region", name="SMTP configuration")
    beside.get_by_role("link", name="Primary").click()
    expect(beside.get_by_role("row").nth(1)).to_have_text(re.compile(r"Primary\s*0\s*0\s*7\s*–\s*–"))
    expect(page.get_by_role("combobox", name="SMTP configuration")).to_have_value("Primary")
    expect(page.get_by_role("img", name="Accepted: 0")).to_be_visible()
    page.get_by_role("link", name="7 failed or expired in the last 24 hours").click()
    expect(page.locator("#result_list tbody tr")).to_have_count(7)
    page.goto(DASHBOARD)
    page.get_by_role("link", name="the server says the mailbox does not exist").click()
    expect(page.locator("#result_list tbody tr")).to_have_count(7)
