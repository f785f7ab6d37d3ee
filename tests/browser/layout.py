"""What a person with a narrow window sees: whether a page scrolls sideways, and whether addresses are broken."""

from __future__ import annotations

from playwright.sync_api import Page

#: The widths of a phone and of a desktop, in pixels.
WIDTHS = (390, 1280)

#: Content of others that has no words to break at, and tables of numbers, which scroll with the arrow keys.
_MAY_SCROLL = "pre, textarea, [role=region][tabindex='0']"

_SIDEWAYS = """mayScroll => {
    const name = one => one.tagName.toLowerCase() + (one.id ? "#" + one.id : "")
        + [...one.classList].map(each => "." + each).join("");
    const page = document.scrollingElement, found = [];
    if (page.scrollWidth > page.clientWidth) {
        const wide = [...document.body.querySelectorAll("*")].filter(one =>
            one.getBoundingClientRect().right > page.clientWidth && !one.closest(mayScroll));
        found.push("the page: " + wide.slice(0, 3).map(name).join(" "));
    }
    for (const one of document.body.querySelectorAll("*")) {
        const scrolls = ["auto", "scroll"].includes(getComputedStyle(one).overflowX);
        if (scrolls && one.clientWidth && one.scrollWidth > one.clientWidth && !one.matches(mayScroll))
            found.push(name(one) + " by " + (one.scrollWidth - one.clientWidth));
    }
    return found;
}"""

#: An address that is longer than its line has to be broken where the whole of it must be readable.
_BROKEN = """() => {
    const found = [], texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const text = texts.currentNode;
        for (const match of text.data.matchAll(/[^\\s<>(),;:"“”]+@[^\\s<>(),;:"“”]+[\\w]/g)) {
            const range = document.createRange();
            range.setStart(text, match.index);
            range.setEnd(text, match.index + match[0].length);
            const parts = [...range.getClientRects()].filter(one => one.width);
            const lines = new Set(parts.map(one => Math.round(one.top))).size;
            let block = text.parentElement;
            while (getComputedStyle(block).display === "inline") block = block.parentElement;
            if (getComputedStyle(block).display === "inline-block") block = block.parentElement;
            const style = getComputedStyle(block);
            const line = block.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
            if (lines > 1 && parts.reduce((sum, one) => sum + one.width, 0) <= line) found.push(match[0]);
        }
    }
    return found;
}"""


def sideways(page: Page) -> list[str]:
    """Return what can be scrolled sideways: the page, with the first elements that are too wide, and its frames."""
    return list(page.evaluate(_SIDEWAYS, _MAY_SCROLL))


def broken_addresses(page: Page) -> list[str]:
    """Return the email addresses that are broken over two lines, though they would fit on one."""
    return list(page.evaluate(_BROKEN))
