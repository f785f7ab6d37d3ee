"""The active flag in a form, which takes effect only if the user changed it on that page."""

from __future__ import annotations

from typing import Any

from django import forms
from django.forms.boundfield import BoundField
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString

from .typing import ConfigForm


class _ActiveBox(BoundField):
    """The checkbox of the active flag, and a hidden field with the value that was stored when the page was made."""

    def as_hidden(self, attrs: Any = None, **kwargs: Any) -> SafeString:
        shown = getattr(self.form, "shown_active", False)
        return format_html('<input type="hidden" name="{}" value="{}">', self.html_initial_name, shown)


class ActiveField(forms.BooleanField):
    """The active flag, with the value that was stored when the page was made."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "show_hidden_initial": True})

    def get_bound_field(self, form: Any, field_name: str) -> BoundField:
        return _ActiveBox(form, self, field_name)


class ActiveAsShown(ConfigForm):
    """A form that applies the active flag only if the user changed it on this page.

    The configuration may have been switched elsewhere after the page was rendered. Saving the page for another reason
    must not undo that switch.
    """

    #: Whether the configuration is active in the database when the form is created.
    was_active = False

    @property
    def shown_active(self) -> bool:
        """Return the flag as the page was rendered with it, or the stored flag if the client does not send it."""
        given = self.data.get(self.add_initial_prefix("is_active")) if self.is_bound else None
        return {"True": True, "False": False}.get(str(given), self.was_active)

    @property
    def ticked(self) -> bool:
        """Return whether the box is ticked, whether or not this takes effect."""
        return "is_active" in self.fields and bool(self["is_active"].data)

    @property
    def decides_active(self) -> bool:
        """Return whether the user changed the box on this page."""
        return "is_active" in self.fields and self.ticked != self.shown_active

    @property
    def overtaken(self) -> bool:
        """Return whether the flag was changed elsewhere after the page was rendered."""
        return "is_active" in self.fields and self.shown_active != self.was_active

    @cached_property
    def changed_data(self) -> list[str]:
        others = [name for name in super().changed_data if name != "is_active"]
        return [*others, "is_active"] if self.decides_active and self.ticked != self.was_active else others

    def clean_is_active(self) -> bool:
        return self.ticked if self.decides_active else self.was_active
