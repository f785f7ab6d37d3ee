"""The pages for people: their links lead somewhere, and 'make docs' makes a site of them that needs no other host."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.dispatch import Signal

import email_integration
from config.local.processes import PATIENCE
from email_integration import delivery, exceptions, signals, testing

ROOT = Path(__file__).resolve().parents[2]
MAP = ROOT / "ARCHITECTURE.md"
PAGES = [ROOT / "README.md", MAP, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCED = re.compile(r"^(`{3,}|~{3,}).*?^\1`*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def prose(page: Path) -> str:
    return _FENCED.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """What can be linked to: headings, by the name that GitHub gives them, and anchors written as such."""
    names = (re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(prose(page)))
    return {*names, *re.findall(r'<a id="([^"]+)">', prose(page))}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    """To a file of this checkout and, where it names an anchor, to one that the file has."""
    for link in _LINK.findall(prose(page)):
        parts = urlsplit(link)
        if parts.scheme:
            continue
        target = (page.parent / parts.path).resolve() if parts.path else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        if parts.fragment:
            assert parts.fragment in anchors(target), link


def test_the_map_names_every_room_and_no_module_that_is_not_there() -> None:
    app = Path(email_integration.__file__).parent
    named = {name for name in re.findall(r"`([a-z_/]+(?:/|\.py))`", MAP.read_text()) if not name.startswith("worker/")}
    assert {name for name in named if not any((root / name).exists() for root in (app, ROOT))} == set()
    assert {f"{room.parent.name}/" for room in app.glob("*/__init__.py")} - {"migrations/"} <= named


def test_the_map_has_the_rooms_in_the_order_of_the_layers() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [re.findall(r"\w+", layer) for layer in contracts[0]["layers"]]
    height = {room: number for number, layer in enumerate(reversed(layers)) for room in layer}
    table = MAP.read_text().partition("| room |")[2].partition("\n\n")[0]
    rows = [re.findall(r"`(\w+)(?:/|\.py)`", row.split("|")[1]) for row in table.splitlines()[2:]]
    heights = [[height[room] for room in row] for row in rows]
    assert all(max(lower) <= min(higher) for lower, higher in itertools.pairwise(heights))


def test_the_site_leads_to_every_page() -> None:
    """A page that no table of contents names would be found by nobody."""
    index = (ROOT / "docs" / "index.md").read_text()
    assert {page.stem for page in PAGES if page.parent.name == "docs"} == {"index", *re.findall(r"^\w+$", index, re.M)}


class _Loaded(HTMLParser):
    """What a browser loads by itself with a page; a link that is clicked is not among it."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "a":
            self.addresses += [value for name, value in attrs if name in ("src", "srcset", "href", "data") and value]


def loaded(text: str) -> list[str]:
    parser = _Loaded()
    parser.feed(text)
    return parser.addresses


@pytest.mark.extra
def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """As the Makefile builds it; and its reference has every public name."""
    (command,) = re.findall(r"^\t\$\(BIN\)/python (-m sphinx .*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    arguments = command.replace("var/", f"{tmp_path}/").split()
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr

    site = tmp_path / "docs"
    pages = {page.name: page.read_text() for page in site.glob("*.html")}
    assert {f"{page.stem}.html" for page in PAGES if page.parent.name == "docs"} <= set(pages)
    for name, text in pages.items():
        assert loaded(text), name
        assert not [address for address in loaded(text) if urlsplit(address).netloc], name
    for style in site.rglob("*.css"):
        assert not re.search(r"""(?:url\(|@import)\s*["']?(?:https?:)?//""", style.read_text()), style

    public = {
        f"{module.__name__}.{name}" for module in (email_integration, delivery, testing) for name in module.__all__
    }
    public |= {f"{signals.__name__}.{name}" for name, value in vars(signals).items() if isinstance(value, Signal)}
    public |= {
        f"{exceptions.__name__}.{name}"
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and issubclass(value, exceptions.EmailIntegrationError)
    }
    described = set(re.findall(r'<dt [^>]*id="([^"]+)"', pages["api.html"]))
    assert public - {"email_integration.testing.outbox"} <= described  # an instance of Outbox, which is there
