"""The forms of a configuration: its page and the connection test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from email_integration import conf, validators
from email_integration.models import SMTPConfig
from email_integration.models.server import OF_OAUTH, SECRETS

from . import routing_status
from .active_flag import ActiveAsShown, ActiveField
from .encryption import EncryptionForm
from .session_tests import SessionTests
from .stale import StaleForm
from .typing import ConfigForm

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise as StrOrPromise
    from django.utils.functional import _StrPromise as Text

#: The fields that a connection test needs.
_OF_THE_SERVER = (
    "host",
    "port",
    "authentication",
    "username",
    "password",
    *OF_OAUTH,
    "ca_certificates",
    "ehlo_name",
    "from_email",
    "timeout",
    "pipelining",
    "max_recipients",
    "max_connections",
)

#: Fields with pasted values, which have no spaces or invisible characters at their ends.
_TRIMMED = (
    "host",
    "username",
    "oauth_endpoint",
    "oauth_authorization_endpoint",
    "oauth_client_id",
    "oauth_scope",
    "ehlo_name",
    "from_email",
)

#: Secrets of one line, which may be pasted with extra characters.
_PASTED = ("password", "oauth_client_secret", "oauth_refresh_token")

_LEFT_OPEN = ("authentication", "oauth_grant", "pipelining")


_BEFORE_CONSENT = _(
    "Leave this blank to save the configuration, not activated, and to ask the owner of the mailbox for consent then."
)


class _SecretLines(forms.Textarea):
    """``PasswordInput`` with several lines: it does not show the entered text again."""

    def get_context(self, name: str, value: Any, attrs: Any) -> dict[str, Any]:
        return super().get_context(name, None, attrs)


def _secret(label: Text) -> forms.CharField:
    widget = forms.PasswordInput(attrs={"autocomplete": "new-password"})
    return forms.CharField(label=label, required=False, strip=False, widget=widget)


class _WriteOnlySecrets(ConfigForm):
    """Fields for secrets that are written but never shown. A blank field keeps the stored secret.

    A form without the authentication method, the grant or the pipelining option also keeps the stored value.
    """

    password = _secret(_("Password"))
    oauth_client_secret = _secret(_("Client secret"))
    oauth_refresh_token = _secret(_("Refresh token"))
    oauth_private_key = forms.CharField(
        label=_("Private key"),
        required=False,
        widget=_SecretLines(attrs={"rows": 4, "autocomplete": "off", "spellcheck": "false"}),
        help_text=_(
            "In PEM format. For client credentials together with its certificate, instead of a client secret; for a "
            "service account of Google the whole JSON file."
        ),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in SECRETS:
            if name in self.fields:
                said = (self._what_is_stored(name), self.fields[name].help_text, _what_may_be_entered(name))
                self.fields[name].help_text = " ".join(str(text) for text in said if text)
        for name in _LEFT_OPEN:
            if name in self.fields:
                self.fields[name].required = False

    def _what_is_stored(self, name: str) -> StrOrPromise:
        if not (self.instance.pk and self.instance.sealed(name)):
            return _BEFORE_CONSENT if name == "oauth_refresh_token" else ""
        of_password = name == "password"
        if kind := self.instance.kind_of(name):
            text = _("The password is kept elsewhere (“{kind}:”). Leave this blank to leave it there.")
            other = _("This is kept elsewhere (“{kind}:”). Leave it blank to leave it there.")
            return format_lazy(text if of_password else other, kind=kind)
        if of_password:
            return _("A password is stored. Leave this blank to keep it.")
        return _("One is stored. Leave this blank to keep it.")

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        for name in _LEFT_OPEN:
            if name in self.fields and not self.cleaned_data.get(name):
                self.cleaned_data[name] = getattr(self.instance, name)
        for name in _TRIMMED:
            if self.cleaned_data.get(name):
                self.cleaned_data[name] = validators.trimmed(self.cleaned_data[name])
        return cleaned

    def _post_clean(self) -> None:
        for name in SECRETS:
            if not self.cleaned_data.get(name):
                self.cleaned_data.pop(name, None)
        super()._post_clean()  # type: ignore[misc]  # Django's untyped hook between form and model


def _what_may_be_entered(name: str) -> StrOrPromise:
    given = conf.get("SECRET_REFERENCES")
    if not given:
        return ""
    if name != "password":
        return format_lazy(_("Or where it is kept: {references}."), references=", ".join(given))
    text = _(
        "A password, or where it is kept: {references}. Put a backslash in front of a password that begins like one."
    )
    return format_lazy(text, references=", ".join(given))


class SMTPConfigForm(ActiveAsShown, StaleForm, EncryptionForm, _WriteOnlySecrets):
    """The form of a configuration's page.

    Deactivating the active configuration needs confirmation, and so does a doubtful secret.
    """

    #: The tests in the user's session; the admin sets it.
    session_tests: SessionTests | None = None
    #: Whether one of them is the last test of what is saved.
    was_tested = False

    confirm_secret = forms.BooleanField(
        label=_("Yes, it is meant exactly like this"), required=False, widget=forms.HiddenInput
    )

    confirm_none_active = forms.BooleanField(
        label=_("Yes, leave no configuration active"), required=False, widget=forms.HiddenInput
    )

    # The browser's own date picker.
    oauth_secret_ends = forms.DateField(
        label=_("Client secret expires on"),
        required=False,
        widget=forms.DateInput(format="%Y-%m-%d", attrs={"type": "date"}),
        help_text=SMTPConfig._meta.get_field("oauth_secret_ends").help_text,
    )

    class Meta:
        model = SMTPConfig
        fields = ("name", *_OF_THE_SERVER, "oauth_secret_ends", "is_active")
        field_classes = {"is_active": ActiveField}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.was_active = self.stored is not None and self.stored.is_active
        if "is_active" not in self.fields:
            self.instance.is_active = self.was_active  # whatever a reverted version contains

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if "name" in self.changed_data:  # an old name does not prevent other changes
            validators.validate_name(name)
        return name

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        given = self.cleaned_data
        if self.was_active and given.get("is_active") is False and not given.get("confirm_none_active"):
            self.fields["confirm_none_active"].widget = forms.CheckboxInput()
            text = _("{consequence} Tick the box to do it all the same, or leave the configuration active.")
            self.add_error("confirm_none_active", str(format_lazy(text, consequence=routing_status.without_any())))
        self._ask_about_secrets()
        return cleaned

    def _ask_about_secrets(self) -> None:
        given = self.cleaned_data
        entered = [name for name in _PASTED if given.get(name)]
        confirmed = given.get("confirm_secret")
        if confirmed and not entered:
            # A secret is not shown again, and a blank one means the stored secret.
            self._show_confirmation()
            self.add_error("confirm_secret", _("Enter it again, and leave the box ticked; or untick it."))
        for name in entered:
            doubt = validators.doubt_about_secret(given[name])
            if doubt and not confirmed:
                self._show_confirmation()
                text = _("{doubt} Enter it without; or, if it is meant like this, enter it again and tick the box.")
                self.add_error(name, str(format_lazy(text, doubt=doubt)))

    def _show_confirmation(self) -> None:
        self.fields["confirm_secret"].widget = forms.CheckboxInput()

    def _post_clean(self) -> None:
        super()._post_clean()
        if not self.errors and self.session_tests is not None:
            self.was_tested = self.session_tests.apply_to(self.instance)
        if self.instance.is_active and not self.was_active and not self.errors:
            try:
                self.instance.check_may_be_activated()
            except ValidationError as error:
                self.add_error("is_active", error)


class ConnectionTestForm(EncryptionForm, _WriteOnlySecrets):
    """The fields that a connection test needs. The configuration may be incomplete."""

    class Meta:
        model = SMTPConfig
        fields = _OF_THE_SERVER

    def __init__(self, *args: Any, sends: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["from_email"].required = sends


class TestAddressForm(forms.Form):
    """The address of a test mail."""

    test_address = forms.EmailField(label=_("Send the test mail to"), max_length=254)
