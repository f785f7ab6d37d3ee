"""Login to the admin: wrong passwords, and with ADMIN_REQUIRE_2FA a device, its codes, and recovery codes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from base64 import b32decode
from collections.abc import Callable, Iterator
from pathlib import Path
from time import time
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django_otp.oath import TOTP
from playwright.sync_api import Browser, Page, Response, expect

from config.admin_auth import attempts
from config.local.processes import PATIENCE, Processes, free_port, wait_until
from tests.headless_browser import browsing

from .accessibility import complaints

ROOT = Path(__file__).resolve().parents[2]
ADMIN = "/admin/"
CODE = "/admin/code/"
SETUP = "/admin/code/setup/"
PASSWORD = "correct horse battery"

MAKE = f"""
import django
django.setup()
from django.contrib.auth import get_user_model
from django.core.management import call_command
call_command("migrate", verbosity=0)
for name in ("kim", "hanna", "marie", "lee"):
    get_user_model().objects.create_superuser(name, f"{{name}}@example.com", {PASSWORD!r})
"""


class Site:
    """The project with ADMIN_REQUIRE_2FA, served by gunicorn, with users who have no device yet."""

    def __init__(self, folder: Path) -> None:
        self.environment = {
            "DJANGO_SETTINGS_MODULE": "tests.browser.admin_auth_settings",
            "DEBUG": "true",
            "VAR_DIR": str(folder / "var"),
            "DATABASE_URL": f"sqlite:///{folder / 'db.sqlite3'}",
            "ADMIN_REQUIRE_2FA": "true",
        }
        self.run("-c", MAKE)
        self.address = f"127.0.0.1:{free_port()}"
        self.processes = Processes(folder, env=self.environment, cwd=ROOT)

    def run(self, *arguments: str) -> str:
        """Run Python in the project, and return its output."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("admin_auth"))
    with site.processes as processes:
        command = [sys.executable, "-m", "gunicorn", "config.wsgi", "--bind", site.address]
        processes.start("web", command).wait_for_log("Booting worker")
        yield site


@pytest.fixture
def guest(chromium: Browser, site: Site) -> Iterator[Page]:
    """A browser page without a login."""
    with browsing(chromium, f"http://{site.address}") as page:
        yield page


def log_in(page: Page, name: str = "kim", *, to: str = ADMIN) -> None:
    """Log in with the password on the login page, and follow the redirect."""
    page.goto(to)
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(re.compile(f"{CODE}|{SETUP}"))


def log_out(page: Page) -> None:
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_text("Logged out", exact=False).first).to_be_visible()


def enter(page: Page, code: str, button: str = "Log in") -> None:
    page.get_by_role("textbox", name="Code").fill(code)
    page.get_by_role("button", name=button).click()


def answered(page: Page, code: str, button: str = "Log in") -> Response:
    with page.expect_response(lambda reply: reply.request.method == "POST") as answer:
        enter(page, code, button)
    return answer.value


def enter_until_looked_at(page: Page, code: Callable[[], str], button: str = "Log in") -> None:
    """Enter codes until one is checked.

    After a wrong code, codes are refused unchecked for a second or two; the device may show another code by then.
    """
    wait_until(lambda: answered(page, code(), button).status != 429, what="a code that is checked")


def code_of(secret: str, *, ahead: int = 0) -> str:
    """Return the code that the device shows now, or ``ahead`` times thirty seconds later."""
    device = TOTP(b32decode(secret.replace(" ", "")))
    device.time = time() + 30 * ahead
    return f"{device.token():06d}"


def wrong_code_of(secret: str) -> str:
    right = {code_of(secret, ahead=ahead) for ahead in range(-3, 4)}
    return next(code for code in (f"{number:06d}" for number in range(10)) if code not in right)


def set_up(page: Page) -> tuple[str, list[str]]:
    """Set up a device; return its secret and the recovery codes."""
    secret = page.locator(".admin-auth-secret").inner_text()
    enter(page, code_of(secret), "Set up")
    expect(page.locator(".admin-auth-codes code")).to_have_count(10)
    codes = page.locator(".admin-auth-codes code").all_inner_texts()
    assert len(set(codes)) == 10
    page.get_by_role("link", name="I have stored them").click()
    return secret, codes


def is_in(page: Page) -> None:
    expect(page.get_by_role("button", name="Log out")).to_be_visible()


@pytest.mark.extra
def test_a_device_is_set_up_once_and_asked_for_ever_after(guest: Page, site: Site) -> None:
    """It accepts a code, a recovery code once, or an operator's code; the password alone opens no page."""
    log_in(guest, to="/admin/auth/user/")
    expect(guest).to_have_url(re.compile(f"{SETUP}\\?"))
    secret, codes = set_up(guest)
    expect(guest).to_have_url(re.compile("/admin/auth/user/$"))

    log_out(guest)
    log_in(guest)
    for closed in (ADMIN, SETUP, "/admin/email_integration/smtpconfig/", "/admin/password_change/"):
        guest.goto(closed)
        expect(guest).to_have_url(re.compile(f"{CODE}\\?"))
    enter(guest, wrong_code_of(secret))
    expect(guest.get_by_text("This code is wrong, or has been used before.")).to_be_visible()
    enter(guest, f" {codes[0][:4].upper()}-{codes[0][4:]}")
    is_in(guest)
    expect(guest.get_by_text("That recovery code is used up, and 9 are left.")).to_be_visible()

    log_out(guest)
    log_in(guest)
    guest.goto(f"{CODE}?next=https://example.com/")
    enter(guest, codes[0])
    expect(guest.get_by_text("This code is wrong, or has been used before.")).to_be_visible()
    enter_until_looked_at(guest, lambda: code_of(secret, ahead=1))
    is_in(guest)
    expect(guest).to_have_url(f"http://{site.address}{ADMIN}")

    log_out(guest)
    log_in(guest)
    by_an_operator = site.run("manage.py", "addstatictoken", "kim").strip()
    enter_until_looked_at(guest, lambda: by_an_operator)
    is_in(guest)

    guest.get_by_role("link", name="Second factor").click()
    other, _ = set_up(guest)
    assert other != secret
    is_in(guest)
    log_out(guest)
    log_in(guest)
    enter(guest, codes[1])
    expect(guest.get_by_text("This code is wrong, or has been used before.")).to_be_visible()
    guest.get_by_role("button", name="I am not kim").click()
    expect(guest.get_by_label("Username")).to_be_visible()


FAILED = """
import django
django.setup()
from django.utils import timezone
from django_otp.plugins.otp_totp.models import TOTPDevice
devices = TOTPDevice.objects.filter(user__username="hanna")
devices.update(throttling_failure_count={times}, throttling_failure_timestamp=timezone.now())
"""


@pytest.mark.extra
def test_after_wrong_codes_the_right_one_has_to_wait(guest: Page, site: Site) -> None:
    """The wait is at most half an hour: otherwise, an attacker with the password could lock the owner out for ever."""
    log_in(guest, "hanna")
    secret = guest.locator(".admin-auth-secret").inner_text()
    assert answered(guest, wrong_code_of(secret), "Set up").status == 200
    expect(guest.get_by_text("This code is wrong. Check that the clock of your device is right.")).to_be_visible()
    site.run("-c", FAILED.format(times=1000))
    refused = answered(guest, code_of(secret), "Set up")
    assert refused.status == 429
    assert 60 < int(refused.headers["retry-after"]) <= 2048
    expect(guest.get_by_text(re.compile(r"Too many wrong codes\. Try again in \d+ seconds\."))).to_be_visible()
    site.run("-c", FAILED.format(times=0))
    assert answered(guest, code_of(secret), "Set up").status == 200
    expect(guest.locator(".admin-auth-codes code")).to_have_count(10)


@pytest.mark.extra
def test_a_secret_is_shown_to_one_visitor_only(guest: Page, chromium: Browser, site: Site) -> None:
    """With the secret that becomes a device, another person would have its codes too."""
    log_in(guest, "marie")
    secret = guest.locator(".admin-auth-secret").inner_text()
    guest.reload()
    assert guest.locator(".admin-auth-secret").inner_text() == secret
    with browsing(chromium, f"http://{site.address}") as other:
        log_in(other, "marie")
        assert other.locator(".admin-auth-secret").inner_text() != secret
        set_up(other)
    enter(guest, code_of(secret), "Set up")
    expect(guest).to_have_url(re.compile(f"{CODE}\\?"))


@pytest.mark.django_db(transaction=True)
def test_too_many_wrong_passwords(
    page: Page, fresh_process: None, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    """A page says for how long logins from this address are refused, and leads back to the login."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    now = time() // attempts.WINDOW * attempts.WINDOW + 1
    monkeypatch.setattr(attempts, "time", lambda: now)
    # A separate user: the counts include those of the other tests.
    get_user_model().objects.create_superuser("noah", "noah@example.com", PASSWORD)
    page.context.clear_cookies()
    for password in (*["wrong"] * attempts.OF_NAME, PASSWORD):
        page.goto(ADMIN)
        page.get_by_label("Username").fill("noah")
        page.get_by_label("Password").fill(password)
        with page.expect_response(re.compile("/login/")) as answer:
            page.get_by_role("button", name="Log in").click()
    assert answer.value.status == 429
    expect(page.get_by_role("alert")).to_contain_text(f"Try again in {attempts.WINDOW - 1} seconds.")
    assert complaints(page) == []
    page.get_by_role("link", name="Log in").click()
    expect(page.get_by_label("Username")).to_be_visible()


@pytest.mark.extra
def test_every_login_page_can_be_read_by_everybody(guest: Page) -> None:
    """For screen readers and low vision, in light and dark mode: axe finds no violation."""
    found: list[str] = []

    def look(name: str, words: str) -> None:
        expect(guest.get_by_text(words).first).to_be_visible()
        for scheme in ("light", "dark"):
            guest.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            found.extend(f"{name}, {scheme}: {each}" for each in complaints(guest, of_colours=scheme == "dark"))

    log_in(guest, "lee")
    look("setup", "You need an authenticator app")
    secret = guest.locator(".admin-auth-secret").inner_text()
    answered(guest, wrong_code_of(secret), "Set up")
    look("setup with an error", "This code is wrong")
    enter_until_looked_at(guest, lambda: code_of(secret), "Set up")
    look("recovery codes", "Store them with your passwords")
    guest.get_by_role("link", name="I have stored them").click()
    guest.get_by_role("link", name="Second factor").click()
    look("another device", "will no longer work")
    guest.goto(ADMIN)
    log_out(guest)
    log_in(guest, "lee")
    look("code", "Enter the code that your authenticator app shows now")
    answered(guest, wrong_code_of(secret))
    look("a wrong code", "This code is wrong")
    assert not found, "\n".join(found)
