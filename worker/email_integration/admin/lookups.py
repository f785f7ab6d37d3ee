"""Lists that can be filtered and ordered only by the criteria that they offer.

Django accepts lookups on any column in a URL. Users could thus guess, letter by letter, data that a
permission hides from them.
"""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.admin import FieldListFilter, SimpleListFilter
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.utils import get_fields_from_path
from django.contrib.admin.views.main import ERROR_FLAG, ChangeList
from django.contrib.admin.widgets import url_params_from_lookup_dict
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from email_integration.ledger.rows import is_name

from .typing import AnyModelAdmin


class RestrictedOrdering(ChangeList):
    """A list that is ordered only by its sortable columns."""

    def get_results(self, request: HttpRequest) -> None:
        """Also reject a time that overflows in another time zone, or has one that the database cannot store."""
        try:
            super().get_results(request)
        except (OverflowError, ValueError) as error:
            raise IncorrectLookupParameters(error) from error

    def get_ordering_field(self, field_name: Any) -> Any:
        """Return None for other columns: Django hides their links, but accepts them in a URL."""
        sortable: Any = self.sortable_by
        return super().get_ordering_field(field_name) if sortable is None or field_name in sortable else None


class RestrictedLookups(AnyModelAdmin):
    """The list of one model. A lookup that neither its filters nor our own links use is answered with 400."""

    #: Lookups that links of other pages use, besides the filters.
    linked_lookups: tuple[str, ...] = ()

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return RestrictedOrdering

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Say that all rows are shown if Django has removed filters that were not understood from the URL."""
        if request.method == "GET" and ERROR_FLAG in request.GET:
            text = _("A filter in the address is not understood. All entries are shown, without any filter.")
            self.message_user(request, text, messages.ERROR)
        response: HttpResponse = super().changelist_view(request, extra_context)
        return response

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """Also return None for an invalid id, which PostgreSQL would not compare."""
        return super().get_object(request, object_id, from_field) if is_name(object_id) else None

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        """Return whether the list's URL may use this lookup. The answer is the same for all users."""
        if "\0" in str(value):  # PostgreSQL accepts no NUL in text
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
        """Return whether a foreign key to this model has this ``limit_choices_to``.

        Django's popup puts it into the URL.
        """
        limits = (limit() if callable(limit) else limit for limit in self.model._meta.related_fkey_lookups)
        return any((lookup, value) in url_params_from_lookup_dict(limit).items() for limit in limits)
