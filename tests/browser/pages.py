"""Every page of this app's admin, with the values that are hardest to display, and the names of their addresses."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.contrib import admin
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import User
from django.urls import URLPattern, URLResolver, resolve
from django.utils import timezone
from playwright.sync_api import Page

from email_integration import routing
from email_integration.admin import bulk_actions, selections
from email_integration.models import Delivery, SendingPause, ServerQuirks, SMTPConfig, Status
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Deferred
from email_integration.routing import breaker
from tests.deliveries import ago, pretend, submitted
from tests.history import ended, tried
from tests.integration.admin_site import config

APP = "/admin/email_integration/"
LIST = f"{APP}smtpconfig/"
DELIVERIES = f"{APP}delivery/"
QUIRKS = f"{APP}serverquirks/"

#: The names of addresses that are no pages: they only take a form, lead elsewhere, or send a file.
NO_PAGES = {
    "email_integration_try_now",
    "email_integration_smtpconfig_test",
    "email_integration_smtpconfig_test_new",
    "email_integration_smtpconfig_consent_begin",
    "email_integration_smtpconfig_consent_back",
    "email_integration_delivery_decide",
    "email_integration_delivery_confirm",
    "email_integration_delivery_export",
    "email_integration_delivery_content_html",  # the mail itself
    "email_integration_delivery_content_raw",
    "email_integration_delivery_content_attachment",
}

ADDRESSES = (
    "kim@example.com",
    "hanna.lindström@bücher.example",
    "first-name.of-a-person@mail.customers.example.org",
    f"{'a-long-name.' * 5}x@mail.customers.example.org",
)

LONG_WORD = "Donaudampfschifffahrtsgesellschaftskapitänsmützenbestellung"
LONG_NAME = f"Versand der {LONG_WORD}"
LONG_REASON = "the server refused kim-of-many-names@customers.example.org: there is no such mailbox (550 5.1.1)"


def names_of_pages() -> set[str]:
    """Return the names of the addresses of this app's admin that show a page."""
    return set(_names(admin.site.get_urls())) - NO_PAGES


def _names(patterns: Any, before: str = "") -> Iterator[str]:
    for each in patterns:
        address = f"{before}{each.pattern}"
        if isinstance(each, URLResolver):
            yield from _names(each.url_patterns, address)
        elif isinstance(each, URLPattern) and each.name and address.startswith("email_integration/"):
            yield each.name


def name_of(page: Page) -> str:
    """Return the name of the address that the page is at."""
    return resolve(urlsplit(page.url).path).url_name or ""


def mails() -> list[Delivery]:
    """Return a mail of each status, with long subjects, reasons, names and addresses."""
    made = []
    for number, status in enumerate(Status):
        mail = submitted(
            ADDRESSES[number % 2],
            *ADDRESSES[2:],
            subject=f"Your order of many books {LONG_WORD} " * 3,
            from_email=f"Hanna <{ADDRESSES[2]}>",
        )
        made.append(
            pretend(
                mail,
                status=status,
                reason=LONG_REASON,
                created_at=ago(4000 * number),
                due_at=timezone.now() + dt.timedelta(minutes=42),
                attempts=number,
                smtp_config=LONG_NAME,
            )
        )
    return made


class Walk:
    """A walk through all pages. Each step yields the words for the page that is shown."""

    def __init__(self, page: Page, monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
        self.page = page
        self.settings = settings
        monkeypatch.setattr(selections, "LISTED", 5)
        monkeypatch.setattr(bulk_actions, "BATCH", 2)
        monkeypatch.setattr(bulk_actions, "_STEP", 0.0)

    def steps(self) -> Iterator[str]:
        yield from self._visited(APP, LIST, DELIVERIES, QUIRKS, f"{DELIVERIES}dashboard/")  # with nothing in them
        yield from self._configurations()
        yield from self._deliveries()
        yield from self._bulk_actions()
        yield from self._dashboards()
        yield from self._quirks()
        yield from self._notices()
        yield from self._without_a_login()

    def _visited(self, *addresses: str, refused: bool = False) -> Iterator[str]:
        for address in addresses:
            reply = self.page.goto(address)
            assert reply is not None
            assert reply.status == (403 if refused else 200), address
            yield address

    def _press(self, selector: str) -> None:
        with self.page.expect_navigation():
            self.page.locator(selector).first.click()

    def _act(self, name: str, *, across: bool = False, rows: str = "tbody input.action-select") -> None:
        """Choose the admin action ``name`` for a row, or for all that match."""
        if across:
            self.page.locator("#action-toggle").check()
            self.page.locator(".actions .question a").click()
        else:
            self.page.locator(rows).first.check()
        self.page.locator("select[name=action]").select_option(name)
        self._press(".actions button")

    def _configurations(self) -> Iterator[str]:
        active = config(LONG_NAME, is_active=True, host=f"smtp.{'long-name.' * 5}example.com", username=ADDRESSES[2])
        config(
            "Backup",
            host="127.0.0.1",
            port=1,
            username=ADDRESSES[3],
            test_passed=False,
            tested_at=timezone.now(),
            test_detail=LONG_REASON,
        )
        owned = config(
            "Owned",
            authentication="oauth",
            oauth_grant="refresh_token",
            oauth_client_id="mailer",
            oauth_client_secret="s3cret",
            oauth_endpoint="https://login.example.com/token",
            oauth_authorization_endpoint="https://login.example.com/authorize",
        )
        active.timeout = 20
        active.save()
        own, version = f"{LIST}{active.pk}/", active.history.first()
        yield from self._visited(
            "/admin/",
            APP,
            LIST,
            f"{LIST}?q=nothing&is_active__exact=1",
            f"{LIST}add/",
            f"{own}change/",
            f"{own}history/",
            f"{own}history/{version.pk}/",
            f"{own}delete/",
            f"{LIST}{owned.pk}/change/",
            f"{LIST}{owned.pk}/consent/",
            f"{LIST}pause/",
        )
        for action in ("deactivate", "delete_selected", "send_test_mail_to"):
            self.page.goto(LIST)
            self._act(action, rows="tr:has(input[name$=is_active]:checked) input.action-select")
            yield action
        self.page.locator("[name=test_address]").fill("bob@")
        self._press("input[type=submit].default")
        yield "an address that is refused"
        self.page.goto(LIST)
        self.page.locator("input[name$=is_active]:checked").uncheck()
        self._press("[name=_save]")
        yield "a list that would leave no configuration active"
        self.page.goto(f"{LIST}add/")
        self._press("[name=_save]")
        yield "a form with errors"
        self.page.goto(f"{LIST}{SMTPConfig.objects.get(name='Backup').pk}/change/")
        self.page.locator("#id_password").fill("password")
        self.page.locator(".email-connection-test button").first.click()
        self.page.locator(".email-stages").wait_for()
        yield "a failed connection test"
        self.page.goto(f"{own}change/")
        self.page.locator("#id_timeout").fill("25")
        SMTPConfig.objects.filter(pk=active.pk).update(timeout=30, from_email=f"Hanna <{ADDRESSES[2]}>")
        self._press("[name=_save]")
        yield "a form that was overtaken"

    def _deliveries(self) -> Iterator[str]:
        made = mails()
        first = made[0]
        tried([first], reason=LONG_REASON)
        kim: Any = User.objects.get()
        LogEntry.objects.log_actions(kim.pk, [first], CHANGE, change_message="Sent now.", single_object=True)
        empty = pretend(
            submitted(), status=Status.FAILED, cause="full", reason="the mailbox is full", has_content=False
        )
        own = f"{DELIVERIES}{first.pk}/"
        yield from self._visited(
            DELIVERIES,
            f"{DELIVERIES}?q=order",
            f"{DELIVERIES}?q=kim@nowhere.example",
            f"{DELIVERIES}?status__exact=failed&priority=normal",
            *(f"{DELIVERIES}{mail.pk}/change/" for mail in made),
            f"{own}content/",
            f"{own}history/",
            f"{DELIVERIES}{empty.pk}/change/",
            f"{DELIVERIES}{empty.pk}/content/",
        )
        self.page.goto(DELIVERIES)
        self.page.locator(".email-filter summary").last.click()
        yield "an open filter"
        yield from self._visited(f"{DELIVERIES}add/", f"{own}delete/", refused=True)
        self.page.goto(f"{DELIVERIES}{made[0].pk}/change/")
        self.page.context.clear_cookies(name="csrftoken")
        self._press("button[value=cancel]")
        yield "a form that is too old"

    def _bulk_actions(self) -> Iterator[str]:
        for action in ("cancel", "send_now", "release", "discard", "resend"):
            self.page.goto(DELIVERIES)
            self.page.locator("#action-toggle").check()
            self.page.locator("select[name=action]").select_option(action)
            self._press(".actions button")
            yield f"the question before {action}"
        self.page.route("**/bulk_action.js", lambda route: route.fulfill(body=""))  # as without scripts
        self._press("input[type=submit].default")
        yield "an action that goes on"
        progress = self.page.url
        yield from self._visited(DELIVERIES)  # which names it
        self.page.goto(progress)
        self._press("[name=stop]")
        yield "an action that was stopped"
        self.page.unroute("**/bulk_action.js")
        self.page.goto(DELIVERIES)
        self._act("cancel")
        self._press("input[type=submit].default")
        self.page.locator("#email-progress[data-ended]").wait_for()
        yield "what was done"

    def _dashboards(self) -> Iterator[str]:
        for hours in range(0, 24, 3):
            at = timezone.now() - dt.timedelta(hours=hours, minutes=5)
            tried(ended(3, at=at, every=2, smtp_config=LONG_NAME))
            tried(ended(2, at=at, status=Status.FAILED, cause="full", reason=LONG_REASON), outcome=Status.FAILED)
        periods = ("hour", "day", "week", "month")
        yield from self._visited(*(f"{DELIVERIES}dashboard/?period={period}" for period in periods))
        self.page.locator("details summary").last.click()
        yield "the figures as a table"
        self.page.locator(".email-refresh button").click()
        yield "a dashboard that is not refreshed"
        self.page.locator(".email-refresh button").click()

    def _quirks(self) -> Iterator[str]:
        row = ServerQuirks.objects.create(key="1", smtp_config=LONG_NAME, host="smtp.example.com", mails=10)
        own = f"{QUIRKS}{row.pk}/"
        yield from self._visited(QUIRKS, f"{own}change/", f"{own}history/", f"{own}delete/")
        yield from self._visited(f"{QUIRKS}add/", refused=True)

    def _notices(self) -> Iterator[str]:
        active = SMTPConfig.objects.get(is_active=True)
        failure = Deferred(cause=Cause.LOGIN, code=535, reason="the login is wrong")
        breaker.trip(routing.relay_of(active), failure, probing=False)
        places = {"REDIRECT_ALL_TO": [ADDRESSES[2]], "ALLOWED_RECIPIENTS": ["example.com", ADDRESSES[3]]}
        self.settings.EMAIL_INTEGRATION = {**self.settings.EMAIL_INTEGRATION, **places}
        yield from self._visited(LIST, f"{DELIVERIES}dashboard/")
        SendingPause.begin(reason=f"A restored backup of {LONG_WORD}")
        SMTPConfig.objects.filter(pk=active.pk).update(password="nonsense")
        yield from self._visited(
            LIST, f"{LIST}{active.pk}/change/", f"{LIST}resume/", f"{DELIVERIES}dashboard/?period=week", DELIVERIES
        )

    def _without_a_login(self) -> Iterator[str]:
        self.page.context.clear_cookies()
        yield from self._visited(LIST)
        self.page.locator("#id_username").fill("kim")
        self.page.locator("#id_password").fill("wrong")
        self._press("input[type=submit]")
        yield "a login that is refused"
        assert re.search("/login/", self.page.url)
