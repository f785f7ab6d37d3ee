"""The content security policy of the pages of config/: only this site, and no inline code or styles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
from django.core.mail import EmailMultiAlternatives
from django.urls import reverse

from config.local.processes import PATIENCE
from config.policy import HEADER, POLICY
from email_integration.queue.submission import submit
from tests.deliveries import RecordingTaskQueue

from .admin_site import logged_in

ROOT = Path(__file__).resolve().parents[2]
KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
#: Behind a proxy that terminates TLS, with its own host name.
BEHIND = {
    "BEHIND_TLS": "true",
    "HSTS_SUBDOMAINS": "true",
    "ADMIN_REQUIRE_2FA": "true",
    "ALLOWED_HOSTS": "mail.example.com",
}


def run(arguments: list[str], var: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the project with these environment variables, and no others that the settings read."""
    given = {"SECRET_KEY": "0123456789" + "abcdefghijklmnopqrstuvwxyz" * 2, "SMTP_PASSWORD_KEYS": KEY, **variables}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "ENV_FILE": "",
            "VAR_DIR": str(var),
            # This folder excludes the journals of workers that other tests have started on this machine.
            "TMPDIR": str(var),
            **given,
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_django_has_nothing_to_say_about_the_deployment(tmp_path: Path) -> None:
    """``manage.py check --deploy`` with the variables that docs/security.md names. Each of them is necessary."""
    check = ["manage.py", "check", "--deploy", "--fail-level", "WARNING"]
    done = run(check, tmp_path, **BEHIND)
    assert done.returncode == 0, done.stderr
    for left_out, warnings in (("BEHIND_TLS", ["security.W008"]), ("HSTS_SUBDOMAINS", ["security.W005", "W021"])):
        done = run(check, tmp_path, **{name: value for name, value in BEHIND.items() if name != left_out})
        assert done.returncode != 0, left_out
        assert all(warning in done.stderr for warning in warnings), done.stderr


ASK = """
import django, json
django.setup()
from django.test import Client
def shown(response):
    cookies = {name: cookie.OutputString() for name, cookie in response.cookies.items()}
    return [response.status_code, dict(response.headers), cookies]
client, of = Client(headers={"host": "mail.example.com"}), {"x-forwarded-proto": "https"}
print(json.dumps([shown(client.get("/admin/login/", headers=of)), shown(client.get("/admin/login/")),
    shown(client.get("/healthz"))]))
"""


def test_behind_a_proxy_that_speaks_tls_all_pages_are_of_https(tmp_path: Path) -> None:
    """HSTS and secure cookies for requests over HTTPS, a redirect for plain requests, and no redirect for monitoring
    requests.
    """
    done = run(["-c", ASK], tmp_path, DEBUG="true", DJANGO_SETTINGS_MODULE="config.settings", **BEHIND)
    assert done.returncode == 0, done.stderr
    (status, headers, cookies), (other, elsewhere, _), (health, _, _) = json.loads(done.stdout)
    assert (status, other, health) == (200, 301, 200)
    assert elsewhere["Location"] == "https://mail.example.com/admin/login/"
    assert headers["Strict-Transport-Security"] == f"max-age={365 * 24 * 3600}; includeSubDomains; preload"
    assert headers["Referrer-Policy"] == headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers[HEADER] == POLICY
    cookie = SimpleCookie(cookies["csrftoken"])["csrftoken"]
    assert (cookie["secure"], cookie["httponly"], cookie["samesite"]) == (True, True, "Lax")


def test_a_client_cannot_claim_https_unless_a_proxy_is_configured(tmp_path: Path) -> None:
    """A variable without an effect is also refused."""
    asked = "s.SECURE_PROXY_SSL_HEADER, s.SECURE_SSL_REDIRECT"
    shown = run(["-c", f"import config.settings as s; print(({asked}))"], tmp_path)
    assert shown.stdout.strip() == "(None, False)", shown.stderr
    refused = run(["-c", "import config.settings"], tmp_path, HSTS_SUBDOMAINS="true", HTTPS_ONLY="false")
    assert refused.stderr.startswith("HSTS_SUBDOMAINS: has no effect with HTTPS_ONLY=false")


@pytest.mark.django_db
def test_a_page_with_a_policy_of_its_own_keeps_it(task_queue: RecordingTaskQueue) -> None:
    """The HTML of a mail has its own policy in its frame. The page around it has the usual policy."""
    mail = EmailMultiAlternatives("Your order", "Text", "a@example.com", ["kim@example.com"])
    mail.attach_alternative("<p>Text</p>", "text/html")
    stored = submit(mail)
    client = logged_in(superuser=True)
    page = client.get(reverse("admin:email_integration_delivery_content", args=[stored.pk]))
    assert page.headers[HEADER] == POLICY
    frame = client.get(page.context["frame"])
    assert "sandbox; default-src 'none'" in frame.headers[HEADER]
    assert frame.headers["X-Frame-Options"] == "SAMEORIGIN"


def test_only_djangos_pages_about_an_error_go_without(client: Any, settings: Any) -> None:
    """They use inline styles, and only developers see them."""
    assert client.get("/nowhere").headers[HEADER] == POLICY
    settings.DEBUG = True
    assert HEADER not in client.get("/nowhere").headers
    assert client.get("/healthz").headers[HEADER] == POLICY
