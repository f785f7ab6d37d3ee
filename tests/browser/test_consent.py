"""The owner of a mailbox is asked for consent, in a browser, at a provider on another site."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pytest
from playwright.sync_api import Page, expect

from email_integration.models import SMTPConfig
from tests.token_endpoint import CLIENT, SCOPE, SECRET, TokenEndpoint

from .accessibility import complaints
from .steps import LIST, Serve, Shot, Start, field, press, send, stored, subjects

pytestmark = pytest.mark.extra

OAUTH = {
    "authentication": "oauth",
    "oauth_grant": "refresh_token",
    "oauth_client_id": CLIENT,
    "oauth_client_secret": SECRET,
    "oauth_scope": SCOPE,
}


@pytest.fixture
def endpoint() -> Iterator[TokenEndpoint]:
    with TokenEndpoint() as running:
        yield running


@pytest.fixture
def other_sites(endpoint: TokenEndpoint) -> Sequence[str]:
    return (endpoint.authorization_url,)


def go_and(page: Page, endpoint: TokenEndpoint, decision: str) -> None:
    """Register the redirect URI that the page shows, go to the provider, decide there, and return."""
    redirect_uri = page.locator(".email-consent code").inner_text()
    endpoint.authorization.redirect_uris.add(redirect_uri)
    with page.expect_navigation():
        page.get_by_role("link", name="Go to 127.0.0.1").click()
    press(page, decision)
    expect(page).to_have_url(re.compile(f"{LIST}\\d+/(change|consent)/$"))


def test_the_owner_allows_it_and_mail_goes(
    page: Page, stack: Start, smtp_server: Serve, endpoint: TokenEndpoint, shot: Shot
) -> None:
    """From an empty form to a mail: saved without a refresh token, consent given, activated."""
    server = smtp_server(check_token=endpoint.is_good)
    stack(beat=False)
    page.goto(f"{LIST}add/")
    field(page, "Name").fill("Primary")
    field(page, "From email").fill("noreply@example.com")
    field(page, "Host").fill("localhost")
    field(page, "Port").fill(str(server.port))
    field(page, "Authentication").select_option("oauth")
    expect(field(page, "Authorization endpoint")).to_be_hidden()
    field(page, "Grant").select_option("refresh_token")
    field(page, "Username").fill("user")
    field(page, "Token endpoint").fill(endpoint.url)
    field(page, "Authorization endpoint").fill(endpoint.authorization_url)
    field(page, "Client id").fill(CLIENT)
    field(page, "Client secret").fill(SECRET)
    field(page, "Scope").fill(SCOPE)
    field(page, "Active").check()
    press(page, "Save and continue editing")
    expect(page.locator(".errorlist")).to_contain_text("Save the configuration without activating it")
    field(page, "Client secret").fill(SECRET)
    field(page, "Active").uncheck()
    press(page, "Save and continue editing")
    assert complaints(page) == []
    with page.expect_navigation():
        page.get_by_role("link", name="Ask the owner of the mailbox for consent").click()
    assert complaints(page) == []
    shot(page, "consent")
    go_and(page, endpoint, "Allow")
    expect(page.locator(".messagelist")).to_contain_text("“Primary” has its refresh token now")
    field(page, "Active").check()
    press(page, "Save")
    assert send("By consent") == "accepted"
    assert subjects(server) == ["By consent"]
    assert [form["grant_type"] for form in endpoint.requests] == ["authorization_code", "refresh_token"]


def test_the_owner_denies_it(page: Page, smtp_server: Serve, endpoint: TokenEndpoint) -> None:
    """The page reports it, nothing is stored, and consent can be requested again."""
    places = {"oauth_endpoint": endpoint.url, "oauth_authorization_endpoint": endpoint.authorization_url}
    config = stored(smtp_server(check_token=endpoint.is_good), "Alpha", password="", **OAUTH, **places)
    page.emulate_media(color_scheme="dark")
    page.goto(f"{LIST}{config.pk}/consent/")
    go_and(page, endpoint, "Deny")
    expect(page.locator(".messagelist")).to_contain_text("did not consent")
    assert complaints(page) == []
    assert (SMTPConfig.objects.get().oauth_refresh_token, endpoint.requests) == ("", [])
    go_and(page, endpoint, "Allow")
    expect(page.locator(".messagelist")).to_contain_text("“Alpha” has its refresh token now")
