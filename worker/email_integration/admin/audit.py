"""Record views of a mail's page if AUDIT_VIEWS is set. Views of its content are always recorded."""

from __future__ import annotations

from typing import Any

from django.contrib.admin.utils import unquote
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from email_integration import conf

from .typing import DeliveryModelAdmin


class AuditedViews(DeliveryModelAdmin):
    """Record views of the page of one mail and of its history, in this history."""

    def change_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> HttpResponse:
        response: HttpResponse = super().change_view(request, object_id, *args, **kwargs)
        self._record(request, object_id, response, _("Viewed."))
        return response

    def history_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> HttpResponse:
        response: HttpResponse = super().history_view(request, object_id, *args, **kwargs)
        self._record(request, object_id, response, _("Its history was viewed."))
        return response

    def _record(self, request: HttpRequest, object_id: str, response: HttpResponse, words: str) -> None:
        if conf.get("AUDIT_VIEWS") and response.status_code == 200:
            delivery = self.get_object(request, unquote(object_id))
            if delivery is not None:
                self.log_change(request, delivery, words)
