"""The History page: each change with its user and both values, and the way to revert it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from django.contrib.admin.utils import unquote
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.text import capfirst, get_text_list
from django.utils.translation import gettext as _
from simple_history.admin import SimpleHistoryAdmin
from simple_history.template_utils import HistoricalRecordContextHelper

from email_integration import conf
from email_integration.models import Authentication, Grant, audit

from . import encryption


class _Words(HistoricalRecordContextHelper):  # type: ignore[misc]  # the library is untyped
    """Shows values in words, and the two columns of the encryption as the one choice of the form."""

    def context_for_delta_changes(self, delta: Any) -> list[dict[str, Any]]:
        changes = [change for change in delta.changes if change.field not in encryption.COLUMN_NAMES]
        shown: list[dict[str, Any]] = super().context_for_delta_changes(dataclasses.replace(delta, changes=changes))
        if len(changes) == len(delta.changes):
            return shown
        old, new = (encryption.NAMES.get(encryption.of(one), "–") for one in (delta.old_record, delta.new_record))
        return [*shown, {"field": _("Encryption"), "old": old, "new": new}]

    def prepare_delta_change_value(self, change: Any, value: Any) -> Any:
        if isinstance(value, bool):
            return _("yes") if value else _("no")
        if change.field == "ca_certificates" and value:
            return certificate_names(value)
        return value if value != "" else "–"


def certificate_names(certificates: str) -> str:
    """Return the subject of each certificate, and the beginning of its SHA-256 fingerprint."""
    try:
        found = x509.load_pem_x509_certificates(certificates.encode())
    except ValueError:
        return certificates
    return ", ".join(f"{one.subject.rfc4514_string()} ({one.fingerprint(hashes.SHA256()).hex()[:8]})" for one in found)


def _secrets(record: Any) -> list[str]:
    """Return the secrets that may have changed: those of the login method, or the one that a consent yielded."""
    if record.history_change_reason == audit.CONSENT:
        return ["oauth_refresh_token"]
    if record.authentication != Authentication.OAUTH:
        return ["password"]
    return _OF_GRANTS.get(record.oauth_grant, ["oauth_client_secret"])


_OF_GRANTS = {
    Grant.CLIENT_CREDENTIALS.value: ["oauth_client_secret", "oauth_private_key"],
    Grant.REFRESH_TOKEN.value: ["oauth_client_secret", "oauth_refresh_token"],
    Grant.JWT_BEARER.value: ["oauth_private_key"],
}


def _check_id(model: Any, text: str) -> None:
    """Raise ``Http404`` for an invalid id, because simple-history passes it to the database."""
    try:
        model._meta.pk.to_python(text)
    except ValidationError:
        raise Http404 from None


class HistoryPage(SimpleHistoryAdmin):  # type: ignore[misc]  # the library is untyped
    """simple-history's page, with a word for each event, and with views, tests and passwords."""

    object_history_template = "admin/email_integration/smtpconfig/object_history.html"
    object_history_list_template = "email_integration/history_list.html"
    object_history_form_template = "admin/email_integration/object_history_form.html"

    def change_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> HttpResponse:
        """Show the page, and record the view."""
        response: HttpResponse = super().change_view(request, object_id, *args, **kwargs)
        self._record(request, object_id, response)
        return response

    def history_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> HttpResponse:
        """Show the history; with AUDIT_VIEWS, record the view."""
        _check_id(self.model, unquote(object_id))
        response: HttpResponse = super().history_view(request, object_id, *args, **kwargs)
        if conf.get("AUDIT_VIEWS"):
            self._record(request, object_id, response, _("the history"))
        return response

    def history_form_view(
        self, request: HttpRequest, object_id: str, version_id: str, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """Show an earlier version; with AUDIT_VIEWS, record the view."""
        _check_id(self.model, object_id)
        _check_id(self.model.history.model, version_id)
        response: HttpResponse = super().history_form_view(request, object_id, version_id, *args, **kwargs)
        if conf.get("AUDIT_VIEWS"):
            self._record(request, object_id, response, _("an earlier version"))
        return response

    def _record(self, request: HttpRequest, object_id: str, response: HttpResponse, what: str = "") -> None:
        if request.method == "GET" and response.status_code == 200:
            config = self.get_object(request, unquote(object_id))
            if config is not None:
                audit.note(config, audit.Event.VIEWED, user=request.user, reason=what)

    def get_history_queryset(self, request: HttpRequest, history_manager: Any, pk_name: str, object_id: Any) -> Any:
        """Return the records of one configuration, newest first.

        simple-history also asks for the foreign keys of the model, by a call that Django 6.1 deprecates for a model
        without any.
        """
        return history_manager.filter(**{pk_name: object_id}).select_related("history_user")

    def get_historical_record_context_helper(self, request: HttpRequest, historical_record: Any) -> _Words:
        return _Words(self.model, historical_record)

    def set_history_delta_changes(
        self, request: HttpRequest, historical_records: Sequence[Any], foreign_keys_are_objs: bool = True
    ) -> None:
        """Describe the changes in each record; for secrets, only that they changed, not their values."""
        super().set_history_delta_changes(request, historical_records, foreign_keys_are_objs)
        for record in historical_records:
            label = capfirst(
                get_text_list([self.model._meta.get_field(name).verbose_name for name in _secrets(record)])
            )
            if record.password_changed and record.event != audit.Event.CREATED:
                changes = getattr(record, "history_delta_changes", [])
                record.history_delta_changes = [*changes, {"field": label, "secret": True}]
