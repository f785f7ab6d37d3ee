"""What a screen reader and weak eyes need of a page, as far as a script can tell (WCAG 2.2, level AA)."""

from __future__ import annotations

from playwright.sync_api import Page

_SCRIPT = """
() => {
    const found = [];
    const visible = (node) => node.checkVisibility() && node.getBoundingClientRect().width > 1;
    const name = (node) => (node.getAttribute("aria-label")
        || (node.getAttribute("aria-labelledby") || "").split(" ")
            .map((id) => document.getElementById(id)?.textContent || "").join("")
        || [...(node.labels || [])]
            .map((label) => label.textContent + [...label.querySelectorAll("img")].map((image) => image.alt)).join("")
        || node.textContent || node.title || (node.type === "submit" ? node.value : "") || "").trim();

    const controls = "#content :is(input:not([type=hidden]), select, button, a[href])";
    for (const node of document.querySelectorAll(controls)) {
        if (visible(node) && !name(node)) {
            found.push("no name: " + node.outerHTML.slice(0, 120));
        }
    }
    const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
    for (const id of ids.filter((id, place) => ids.indexOf(id) !== place)) {
        found.push("twice: #" + id);
    }
    let level = 0;
    for (const node of document.querySelectorAll("#content :is(h1, h2, h3, h4)")) {
        const now = Number(node.tagName[1]);
        if (now > level + 1) {
            found.push(`heading ${level} to ${now}: ${node.textContent.trim()}`);
        }
        level = now;
    }
    for (const table of document.querySelectorAll("#content table")) {
        if (!table.querySelector("th[scope]")) {
            found.push("a table without headings");
        }
    }

    const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
    const light = (color) => {
        const [r, g, b] = numbers(color).map((value) => value / 255)
            .map((value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (node) => {
        for (; node; node = node.parentElement) {
            const color = getComputedStyle(node).backgroundColor;
            if (numbers(color)[3] !== 0) {
                return color;
            }
        }
        return "rgb(255, 255, 255)";
    };
    for (const node of document.querySelectorAll("[class*=email-], [class*=email-] *")) {
        const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
        if (own && visible(node) && !node.closest("[aria-disabled]")) {
            const [one, other] = [light(getComputedStyle(node).color), light(behind(node))].sort((a, b) => b - a);
            if ((one + 0.05) / (other + 0.05) < 4.5) {
                found.push("too little contrast: " + node.outerHTML.slice(0, 120));
            }
        }
    }
    return found;
}
"""


def complaints(page: Page) -> list[str]:
    """What is wrong with the page as it is now; nothing, it is to be hoped."""
    found: list[str] = page.evaluate(_SCRIPT)
    return found
