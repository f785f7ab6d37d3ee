"""Every page of this app, in one walk for each language: axe, the widths of a phone and a desktop, whole addresses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Page

from .accessibility import complaints
from .layout import WIDTHS, broken_addresses, sideways
from .pages import Walk, name_of, names_of_pages

pytestmark = pytest.mark.django_db(transaction=True)

LOCALES = ("en-GB", "de")


@dataclass
class Seen:
    """What was seen in a walk through all pages."""

    names: set[str] = field(default_factory=set)
    complaints: dict[str, list[str]] = field(default_factory=lambda: {"light": [], "dark": []})
    sideways: dict[int, list[str]] = field(default_factory=lambda: {width: [] for width in WIDTHS})
    broken: dict[int, list[str]] = field(default_factory=lambda: {width: [] for width in WIDTHS})


#: The walks of this run: each one takes time, and several tests ask for it.
_walks: dict[str, Seen] = {}


@pytest.fixture
def seen(request: pytest.FixtureRequest, locale: str) -> Seen:
    """Walk through all pages in this language, unless a test before has done so."""
    if locale not in _walks:
        page = request.getfixturevalue("page")
        walk = Walk(page, request.getfixturevalue("monkeypatch"), request.getfixturevalue("settings"))
        _walks[locale] = walked(page, walk, locale)
    return _walks[locale]


def walked(page: Page, walk: Walk, locale: str) -> Seen:
    seen = Seen()
    for words in walk.steps():
        seen.names.add(name_of(page))
        assert page.locator("html").get_attribute("lang") == locale.lower(), words
        size = page.viewport_size
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 800})
            seen.sideways[width] += [f"{words}: {each}" for each in sideways(page)]
            seen.broken[width] += [f"{words}: {each}" for each in broken_addresses(page)]
        page.set_viewport_size(size or {"width": 1280, "height": 800})
        if locale == LOCALES[0]:
            schemes: tuple[Any, ...] = ("dark", "light")
            for scheme in schemes:
                page.emulate_media(color_scheme=scheme)
                found = complaints(page, of_colours=scheme == "dark")
                seen.complaints[scheme] += [f"{words}: {each}" for each in found]
    return seen


def test_every_page_of_the_app_is_visited(seen: Seen) -> None:
    """A page that is added to the admin has to be added to the walk."""
    assert names_of_pages() <= seen.names


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation_on_any_page(seen: Seen, scheme: str) -> None:
    assert not seen.complaints[scheme], "\n".join(seen.complaints[scheme])


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_scrolls_sideways(seen: Seen, width: int) -> None:
    assert not seen.sideways[width], "\n".join(seen.sideways[width])


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("width", WIDTHS)
def test_no_address_is_broken_over_two_lines(seen: Seen, width: int) -> None:
    assert not seen.broken[width], "\n".join(seen.broken[width])
