"""The admin pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.utils.translation import gettext_lazy as _

from .models import SMTPConfig

if TYPE_CHECKING:
    _ModelForm = forms.ModelForm[SMTPConfig]
    _ModelAdmin = admin.ModelAdmin[SMTPConfig]
else:
    _ModelForm = forms.ModelForm
    _ModelAdmin = admin.ModelAdmin


class SMTPConfigForm(_ModelForm):
    """The password is write-only: blank keeps what is stored."""

    password = forms.CharField(
        label=_("Password"),
        required=False,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text=_("Leave blank to keep the stored password."),
    )

    class Meta:
        model = SMTPConfig
        fields = (
            "name",
            "host",
            "port",
            "username",
            "password",
            "use_tls",
            "use_ssl",
            "from_email",
            "timeout",
            "is_active",
        )

    def _post_clean(self) -> None:
        if not self.cleaned_data.get("password"):
            self.cleaned_data.pop("password", None)
        super()._post_clean()  # type: ignore[misc]  # Django's hook between form and model, untyped


@admin.register(SMTPConfig)
class SMTPConfigAdmin(_ModelAdmin):
    """One row per server."""

    form = SMTPConfigForm
    list_display = ("name", "host", "port", "username", "use_tls", "use_ssl", "is_active", "updated_at")
    list_filter = ("is_active", "use_tls", "use_ssl")
    search_fields = ("name", "host", "username")
    readonly_fields = ("created_at", "updated_at")

    def get_fieldsets(self, request: Any, obj: Any = None) -> Any:
        """What it is, how to reach it, who it writes as."""
        return [
            (None, {"fields": ("name", "is_active", "from_email")}),
            (_("Server"), {"fields": ("host", "port", "use_tls", "use_ssl", "timeout")}),
            (_("Login"), {"fields": ("username", "password")}),
            *([(_("Times"), {"fields": ("created_at", "updated_at")})] if obj else []),
        ]
