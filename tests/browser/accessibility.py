"""Accessibility of a page for screen readers and low vision, as far as axe can check it (WCAG 2.2, level AA)."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

_RULES = {
    "resultTypes": ["violations"],
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
}

#: The rules that colours can break.
_COLOURS = {
    "resultTypes": ["violations"],
    "runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]},
}

#: Waits for each animation in turn. A cancelled one rejects its promise, and another may have replaced it.
_FADED = """async () => {
    const running = () => document.getAnimations().find(each => each.playState === "running");
    for (let each = running(); each; each = running())
        await each.finished.catch(() => null);
}"""


def complaints(page: Page, *, of_colours: bool = False) -> list[str]:
    """Return the violations on the page as it is now, or only those of its colours."""
    page.evaluate(_FADED)  # links and buttons fade to their final colours
    found = Axe().run(page, options=_COLOURS if of_colours else _RULES).response["violations"]
    return [f"{rule['id']}: {node['html'][:200]}" for rule in found for node in rule["nodes"]]
