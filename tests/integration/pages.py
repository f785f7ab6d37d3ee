"""What a browser shows of a page, and sends for its form."""

from __future__ import annotations

import re
from html import unescape
from typing import Any


def sent_by(page: Any) -> dict[str, str]:
    """Return the data that a browser sends for the form of ``page``, without changes."""
    html = page.content.decode()
    values = {}
    for tag in re.findall(r"<input ([^>]+)>", html):
        box = dict(re.findall(r'([a-z-]+)="([^"]*)"', tag))
        kind = box["type"]
        sent = kind != "submit" and (kind != "checkbox" or "checked" in tag.split())
        if sent and "name" in box and box["name"] not in ("_selected_action", "csrfmiddlewaretoken"):
            values[box["name"]] = unescape(box.get("value", "on" if kind == "checkbox" else ""))
    for name, options in re.findall(r'<select name="([^"]+)"[^>]*>(.*?)</select>', html, re.S):
        chosen = re.search(r'<option value="([^"]*)" selected', options)
        if name != "action":
            values[name] = unescape(chosen[1]) if chosen else ""
    for name, text in re.findall(r'<textarea name="([^"]+)"[^>]*>(.*?)</textarea>', html, re.S):
        values[name] = unescape(text).removeprefix("\n").removeprefix("\r\n")
    return values


def with_plain_addresses(html: str) -> str:
    """Return ``html`` without the elements that keep each address on one line."""
    return re.sub(r'<span class="email-address">([^<]*)</span>', r"\1", html)
