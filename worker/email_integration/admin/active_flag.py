"""The active flag in a form: acted on only if it was changed on that page."""

from __future__ import annotations

from typing import Any

from django import forms
from django.forms.boundfield import BoundField
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString

from .typing import ConfigForm


class _ActiveBox(BoundField):
    """The box of the active flag; beside it, hidden, goes what was stored when the page was made."""

    def as_hidden(self, attrs: Any = None, **kwargs: Any) -> SafeString:
        shown = getattr(self.form, "shown_active", False)
        return format_html('<input type="hidden" name="{}" value="{}">', self.html_initial_name, shown)


class ActiveField(forms.BooleanField):
    """The flag, with what was stored when the page was made."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "show_hidden_initial": True})

    def get_bound_field(self, form: Any, field_name: str) -> BoundField:
        return _ActiveBox(form, self, field_name)


class ActiveAsShown(ConfigForm):
    """Acts on the active flag only if it was changed on this page.

    A page may be older than a switch made elsewhere, and saving it for another reason must not undo that.
    """

    #: Whether the configuration is active in the database, now that the form is made.
    was_active = False

    @property
    def shown_active(self) -> bool:
        """Whether it was active when the page was made; as it is now, for a client that does not say."""
        given = self.data.get(self.add_initial_prefix("is_active")) if self.is_bound else None
        return {"True": True, "False": False}.get(str(given), self.was_active)

    @property
    def ticked(self) -> bool:
        """Whether the box is ticked, whatever follows from it."""
        return "is_active" in self.fields and bool(self["is_active"].data)

    @property
    def decides_active(self) -> bool:
        """Whether the box was changed on this page."""
        return "is_active" in self.fields and self.ticked != self.shown_active

    @property
    def overtaken(self) -> bool:
        """Whether the flag has changed elsewhere since the page was made."""
        return "is_active" in self.fields and self.shown_active != self.was_active

    @cached_property
    def changed_data(self) -> list[str]:
        others = [name for name in super().changed_data if name != "is_active"]
        return [*others, "is_active"] if self.decides_active and self.ticked != self.was_active else others

    def clean_is_active(self) -> bool:
        return self.ticked if self.decides_active else self.was_active
