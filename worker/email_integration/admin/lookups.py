"""Lists that are filtered and ordered only by what they offer.

Django looks up whatever column an address names, so that its readers can ask for one letter after the other of what a
permission hides from them.
"""

from __future__ import annotations

from typing import Any

from django.contrib.admin import FieldListFilter, SimpleListFilter
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.utils import get_fields_from_path
from django.contrib.admin.views.main import ChangeList
from django.contrib.admin.widgets import url_params_from_lookup_dict
from django.http import HttpRequest

from email_integration.ledger.rows import is_name

from .typing import AnyModelAdmin


class RestrictedOrdering(ChangeList):
    """A list that is ordered by the columns that can be clicked."""

    def get_results(self, request: HttpRequest) -> None:
        """Django's; a moment that no other time zone can show is none to ask for."""
        try:
            super().get_results(request)
        except OverflowError as error:
            raise IncorrectLookupParameters(error) from error

    def get_ordering_field(self, field_name: Any) -> Any:
        """Django's; it leaves the links of other columns out, and orders by them all the same."""
        sortable: Any = self.sortable_by
        return super().get_ordering_field(field_name) if sortable is None or field_name in sortable else None


class RestrictedLookups(AnyModelAdmin):
    """The list of one model: what neither a filter of it nor a link of ours asks for answers 400."""

    #: What links of other pages look up beside the filters.
    linked_lookups: tuple[str, ...] = ()

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return RestrictedOrdering

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """None also for what can be no id, which PostgreSQL would not even compare."""
        return super().get_object(request, object_id, from_field) if is_name(object_id) else None

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        """Whether the address of the list may ask for this; for all readers alike."""
        if "\0" in str(value):  # to PostgreSQL it is no text
            return False
        return lookup in self.linked_lookups or lookup in self._of_filters(request) or self._of_popups(lookup, value)

    def _of_filters(self, request: Any) -> set[str]:
        found: set[str] = set()
        filters: Any = self.get_list_filter(request)
        for item in filters:
            if isinstance(item, type) and issubclass(item, SimpleListFilter):
                found.add(str(item.parameter_name))
                continue
            path, kind = item if isinstance(item, list | tuple) else (item, FieldListFilter.create)
            field = get_fields_from_path(self.model, path)[-1]
            found.update(kind(field, request, {}, self.model, self, field_path=path).expected_parameters())
        if self.date_hierarchy:
            found.update(f"{self.date_hierarchy}__{part}" for part in ("year", "month", "day", "gte", "lt"))
        return found

    def _of_popups(self, lookup: str, value: Any) -> bool:
        """Whether a foreign key to this model limits its choices to exactly that: Django's popup puts it there."""
        limits = (limit() if callable(limit) else limit for limit in self.model._meta.related_fkey_lookups)
        return any((lookup, value) in url_params_from_lookup_dict(limit).items() for limit in limits)
