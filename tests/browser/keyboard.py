"""A person without a mouse: reach an element by its accessible name with Tab, see that it has the focus, and use it."""

from __future__ import annotations

import re
from typing import Any

from playwright.sync_api import Locator, Page, expect

#: The most steps from one element to another: more than the focusable elements of any page of the app.
BOUND = 150

#: What shows the focus. A change of the text's colour alone is not enough (WCAG 1.4.1).
_LOOKS = """one => {
    const style = getComputedStyle(one);
    const line = style.outlineStyle === "none" || style.outlineWidth === "0px" ? "none" : style.outline;
    return [line, style.boxShadow, style.borderColor, style.backgroundColor, style.textDecorationLine].join();
}"""

#: Whether the focused element is in the window, and not below another one (WCAG 2.4.11).
_IS_IN_SIGHT = """one => {
    const box = one.getClientRects()[0], x = box.left + box.width / 2, y = box.top + box.height / 2;
    const top = document.elementFromPoint(x, y);
    return top !== null && (one.contains(top) || top.contains(one) || [...one.labels || []].includes(top));
}"""

_HAS_FOCUS = "one => one === document.activeElement"


class Keyboard:
    """The keys of one page. Nothing here clicks, and nothing sets the focus by a script."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def to(self, role: Any, name: str | re.Pattern[str], *, within: str = "body", back: bool = False) -> Locator:
        """Press Tab, or Shift+Tab, until the element of this name has the focus, and return it.

        Fails if BOUND steps do not reach it, if it looks as before, or if it is out of sight.
        """
        scope = self.page.locator(within)
        if role == "summary":  # Playwright knows no role of it
            found = scope.locator("summary").filter(has_text=name)
        else:
            found = scope.get_by_role(role, name=name, exact=isinstance(name, str)).first
        expect(found).to_be_visible()
        element = found.element_handle()  # found once, not after each step
        before = element.evaluate(_LOOKS)
        if element.evaluate(_HAS_FOCUS):
            return found
        for _ in range(BOUND):
            self.page.keyboard.press("Shift+Tab" if back else "Tab")
            if element.evaluate(_HAS_FOCUS):
                break
        else:
            raise AssertionError(f"{BOUND} steps do not reach the {role} {name!r}")
        element.evaluate("one => Promise.all(one.getAnimations().map(each => each.finished))")  # colours fade
        assert element.evaluate(_LOOKS) != before, f"the focus of the {role} {name!r} is not visible"
        assert element.evaluate(_IS_IN_SIGHT), f"the {role} {name!r} has the focus, and is out of sight"
        return found

    def enter(self, role: Any, name: str | re.Pattern[str], *, within: str = "body", back: bool = False) -> None:
        """Use a link or a button that leads to another page, and wait until that page has loaded."""
        self.to(role, name, within=within, back=back)
        with self.page.expect_navigation():
            self.page.keyboard.press("Enter")

    def press(
        self, role: Any, name: str | re.Pattern[str], key: str, *, within: str = "body", back: bool = False
    ) -> None:
        """Press ``key`` on an element that stays on this page."""
        self.to(role, name, back=back)
        self.page.keyboard.press(key)

    def type(self, name: str, text: str, *, role: Any = "textbox") -> None:
        """Type ``text`` into a field instead of what it has."""
        self.to(role, name)
        self.page.keyboard.press("Control+a")
        self.page.keyboard.type(text)

    def choose(self, name: str, option: str, *, back: bool = False) -> None:
        """Choose an option of a select with the arrow keys."""
        select = self.to("combobox", name, back=back)
        chosen = "one => one.selectedOptions[0].textContent"
        for _ in range(select.evaluate("one => one.options.length")):
            if select.evaluate(chosen) == option:
                return
            self.page.keyboard.press("ArrowDown")
        assert select.evaluate(chosen) == option
