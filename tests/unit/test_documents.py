"""The documentation pages: links work, lines are short, and 'make docs' builds a site that needs no other host."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
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
OF_THE_CHECKOUT = [MAP, *(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY"))]
PAGES = [*OF_THE_CHECKOUT, *sorted((ROOT / "docs").rglob("*.md"))]

#: The most columns of a line of prose.
COLUMNS = 100

#: Pages that a program writes, with the program. Their lines may be longer.
GENERATED = {"docs/performance.md": "python -m bench"}

#: Folders of the checkout that are not part of it; hidden folders are not, either.
_UNTRACKED = {"build", "dist", "htmlcov", "var"}

_FENCED = re.compile(r"^(`{3,}|~{3,}).*?^\1`*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
_BLOCK = re.compile(r" *(`{3,}|~{3,}|:{3,})")
_ITEM = re.compile(r"(?:[-*+]|\d+[.)]) ")
_TABLE_OR_TAG = re.compile(r" *(?:\||<(?!https?:))")
_ONE_LINK = re.compile(r"\s*(?:[-*+] )?!?\[[^\]]*\]\([^)\s]+\)[.,;:]?")
_URL = re.compile(r"https?://[^\s)>]+")


def prose(page: Path) -> str:
    return _FENCED.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """Return the link targets of a page: headings, by the name that GitHub gives them, and explicit anchors."""
    names = (re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(prose(page)))
    return {*names, *re.findall(r'<a id="([^"]+)">', prose(page))}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    """It leads to a file of this checkout and, if it names an anchor, to one that the file has."""
    for link in _LINK.findall(prose(page)):
        parts = urlsplit(link)
        if parts.scheme:
            continue
        target = (page.parent / parts.path).resolve() if parts.path else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        if parts.fragment:
            assert parts.fragment in anchors(target), link


def markdown_files() -> list[Path]:
    """Return all Markdown files of the checkout."""
    folders = [
        folder for folder in ROOT.iterdir() if folder.is_dir() and not folder.name.startswith((".", *_UNTRACKED))
    ]
    return sorted([*ROOT.glob("*.md"), *(page for folder in folders for page in folder.rglob("*.md"))])


def prose_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line that is neither code nor in a directive, a table or an HTML tag."""
    block, in_list, in_code, after_blank = "", False, False, True
    for number, line in enumerate(text.splitlines(), 1):
        marker = _BLOCK.match(line)
        if marker and (not block or marker[1].startswith(block)):
            block = "" if block else marker[1]
        elif not block:
            if line[:1].strip():
                in_list = bool(_ITEM.match(line))
            # Four spaces begin code after an empty line, except in a list, where they continue the item.
            in_code = line.startswith("    ") and not in_list and (in_code or after_blank)
            if not in_code and not _TABLE_OR_TAG.match(line):
                yield number, line
            after_blank = not line.strip()


def long_lines(text: str) -> list[int]:
    """Return the numbers of the prose lines that are too long. Links alone in a line, and URLs, cannot be broken."""
    return [
        number
        for number, line in prose_lines(text)
        if len(_URL.sub("", line)) > COLUMNS and not _ONE_LINK.fullmatch(line)
    ]


def test_prose_has_at_most_100_columns() -> None:
    """Readers compare and quote lines. Pages that a program writes are exempt; see ``GENERATED``."""
    pages = {page.relative_to(ROOT).as_posix(): page for page in markdown_files()}
    assert set(pages) >= {page.relative_to(ROOT).as_posix() for page in PAGES} >= set(GENERATED)
    checked = {name: long_lines(page.read_text()) for name, page in pages.items() if name not in GENERATED}
    assert [f"{name}:{number}" for name, numbers in checked.items() for number in numbers] == []


@pytest.mark.parametrize(
    ("before", "line", "after"),
    [
        ("", "{}", ""),
        ("", "- {}", ""),
        ("- An item:\n\n", "      {}", ""),
        ("- An item\n", "  {}", ""),
        ("A paragraph\n", "    {}", ""),
        ("```\ncode\n```\n", "{}", "\n```\ncode\n```"),
        ("    code\n\n", "{}", ""),
        ("", "# {}", ""),
        ("", "{} [a link](one.md)", ""),
        ("", "{} <https://example.com/>", ""),
        ("", "<https://example.com/> {}", ""),
    ],
)
def test_a_long_line_of_prose_is_found(before: str, line: str, after: str) -> None:
    """One character less, and the line is short enough."""
    missing = COLUMNS - len(_URL.sub("", line.format("")))
    text = before + line + after
    assert long_lines(text.format("x" * missing)) == []
    assert long_lines(text.format("x" * (missing + 1))) == [before.count("\n") + 1]


@pytest.mark.parametrize(
    "text",
    [
        "| {} | b |",
        "```python\n{}\n```",
        "````\n```\n{}\n````",
        "~~~\n{}\n~~~",
        "Text:\n\n    code\n\n    {}",
        ":::{{note}}\n{}\n:::",
        '<img alt="{}">',
        "![{}](images/one.png)",
        "[M1]: https://example.com/{}",
        "See <https://example.com/{}>.",
    ],
)
def test_code_tables_and_unbreakable_lines_may_be_long(text: str) -> None:
    assert long_lines(text.format("x" * COLUMNS)) == []


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
    """Readers would not find a page that no table of contents lists."""
    index = (ROOT / "docs" / "index.md").read_text()
    assert {page.stem for page in PAGES if page.parent.name == "docs"} == {"index", *re.findall(r"^\w+$", index, re.M)}


class _Loaded(HTMLParser):
    """Collects the addresses that a browser loads with a page, without the links to click."""

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
    """The test uses the Makefile's command, and checks that the reference has every public name."""
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
    assert public - {"email_integration.testing.outbox"} <= described  # an instance of Outbox, which the reference has


def test_make_test_contains_what_make_test_admin_runs() -> None:
    """Both run files with the same marks: ``make test`` all files, ``make test-admin`` those of the admin."""
    text = (ROOT / "Makefile").read_text().replace("\\\n", "")
    every = re.search(r"^test:.*\n(?:\t.*\n)*?\t\$\(TOGETHER\) --ignore=\$\(MATRIX\)\n", text, re.MULTILINE)
    assert every is not None
    (part,) = re.findall(r"^test-admin:.*\n(?:\t.*\n)*?\t\$\(TOGETHER\) (.*)\n", text, re.MULTILINE)
    assert part == "$(ADMIN) $(ONLY)"
    (files,) = re.findall(r"^ADMIN := (.*)$", text, re.MULTILINE)
    assert {"$(wildcard tests/integration/test_admin_*.py)", "tests/browser"} <= set(re.split(r"(?<!wildcard) ", files))
    assert "test_fault_matrix" not in files
