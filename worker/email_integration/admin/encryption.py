"""The encryption of a connection as one choice in the admin; the model has the columns ``use_tls`` and ``use_ssl``."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db import models
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from email_integration.models import SMTPConfig
from email_integration.models.server import ServerSettings

from .filters import TEMPLATE
from .typing import ConfigForm


class Encryption(models.TextChoices):
    """A kind of encryption, with the port that servers usually offer it on."""

    NONE = "none", pgettext_lazy("encryption", "None")
    STARTTLS = "starttls", _("STARTTLS (587)")
    TLS = "tls", _("TLS (465)")


#: The columns of the model, and their values for each kind.
COLUMN_NAMES = ("use_tls", "use_ssl")
_COLUMNS = {Encryption.NONE: (False, False), Encryption.STARTTLS: (True, False), Encryption.TLS: (False, True)}


#: The name of each kind without a port.
NAMES: dict[Encryption | None, Any] = {
    Encryption.NONE: _("none"),
    Encryption.STARTTLS: "STARTTLS",
    Encryption.TLS: "TLS",
}


def of(config: ServerSettings) -> Encryption | None:
    """Return the encryption of ``config``; None if both columns are set, which no connection can use."""
    return next((kind for kind, columns in _COLUMNS.items() if columns == (config.use_tls, config.use_ssl)), None)


class EncryptionForm(ConfigForm):
    """A form with one select for both columns. A form that is sent without it keeps what is stored."""

    encryption = forms.ChoiceField(
        label=_("Encryption"),
        choices=Encryption.choices,
        required=False,
        help_text=_(
            "STARTTLS encrypts the connection after it has begun, usually on port 587. TLS encrypts it from the start, "
            "usually on port 465."
        ),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial.setdefault("encryption", of(self.instance))

    def _post_clean(self) -> None:
        chosen = self.cleaned_data.get("encryption")
        if chosen:
            self.instance.use_tls, self.instance.use_ssl = _COLUMNS[Encryption(chosen)]
        super()._post_clean()  # type: ignore[misc]  # Django's untyped hook between form and model

    def _update_errors(self, errors: ValidationError) -> None:
        """Show the model's errors about the two columns at the select."""
        found = getattr(errors, "error_dict", {})
        about = [error for name in COLUMN_NAMES for error in found.pop(name, [])]
        if about:
            found["encryption"] = about
        super()._update_errors(errors)  # type: ignore[misc]  # likewise


class EncryptionFilter(admin.SimpleListFilter):
    """The list's filter by encryption."""

    template = TEMPLATE
    title = _("encryption")
    parameter_name = "encryption"

    def lookups(self, request: Any, model_admin: Any) -> Any:
        return Encryption.choices

    def queryset(self, request: Any, queryset: models.QuerySet[SMTPConfig]) -> models.QuerySet[SMTPConfig]:
        chosen = self.value()
        if chosen not in Encryption.values:
            return queryset
        use_tls, use_ssl = _COLUMNS[Encryption(str(chosen))]
        return queryset.filter(use_tls=use_tls, use_ssl=use_ssl)
