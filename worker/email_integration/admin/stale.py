"""Changes of a configuration that were made elsewhere while a page was open.

A form carries the values that were stored when its page was made. If the stored values have changed since, the form is
not saved. Its page shows the differences, and the fields that the user did not change show what is stored now. Saved
again, the form writes what it shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib.admin.helpers import ActionForm
from django.core.exceptions import ValidationError
from django.core.signing import BadSignature, Signer
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext_lazy as _

from email_integration.models import SMTPConfig
from email_integration.models.server import OF_OAUTH, SECRETS

from . import encryption
from .history import certificate_names
from .typing import ConfigForm

#: The values that a form writes, by the names of its fields. The active flag is not among them: see ``active_flag``.
_VALUES = (
    "name",
    "from_email",
    "host",
    "port",
    "encryption",
    "timeout",
    "authentication",
    "username",
    *(name for name in OF_OAUTH if name not in SECRETS),
    "oauth_secret_ends",
    "ca_certificates",
    "ehlo_name",
    "pipelining",
    "max_recipients",
    "max_connections",
)

#: If one of these is sent blank, the stored value stays.
_KEPT_IF_BLANK = ("encryption", "authentication", "oauth_grant", "pipelining", *SECRETS)

_SIGNER = Signer(salt="email_integration.stored_values")


class ChangedMeanwhile(Exception):
    """The configuration was changed or deleted after its form was checked: check the form again."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A field with different values: as the page was made, as stored now, and as the user wants it.

    Of a secret, only whether it has changed is known.
    """

    label: Any
    loaded: Any
    stored: Any
    wanted: Any
    #: Whether another user changed the same field.
    is_contested: bool


def stored_values(config: SMTPConfig | None) -> dict[str, str]:
    """Return the values of ``config`` as text; of a secret, a digest of its sealed form. Empty if there is no row."""
    if config is None:
        return {}
    return _values_of(config) | {name: _digest(str(config.sealed(name))) for name in SECRETS}


def _values_of(row: Any) -> dict[str, str]:
    """Return the values of a configuration, or of a record of its history, without secrets."""
    values = {name: getattr(row, name) for name in _VALUES if name != "encryption"} | {"encryption": encryption.of(row)}
    return {name: "" if value is None else str(value) for name, value in values.items()}


def _digest(sealed: str) -> str:
    return salted_hmac("email_integration.sealed", sealed, algorithm="sha256").hexdigest()[:16] if sealed else ""


def _plain(text: Any) -> str:
    """Return ``text`` without spaces at its ends, and with the line ends that a browser changes."""
    return str(text).replace("\r\n", "\n").strip()


class _StoredValuesField(forms.CharField):
    def has_changed(self, initial: Any, data: Any) -> bool:
        return False


class StaleForm(ConfigForm):
    """A form that is not saved over changes that its user has not seen."""

    #: The stored values when the page was made. A form that is sent without it is not checked.
    stored_values = _StoredValuesField(required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stored = SMTPConfig.objects.filter(pk=self.instance.pk).first() if self.instance.pk else None
        self.differences: list[Difference] = []
        self._current = stored_values(self.stored)
        current = _SIGNER.sign_object(self._current, compress=True)
        self.initial["stored_values"] = current
        given = self.data.get(self.add_prefix("stored_values")) if self.is_bound else None
        if self.instance.pk and given and "stored_values" in self.fields:
            loaded = _read(given)
            if loaded != self._current:
                self._compare(loaded)
                self._set("stored_values", current)

    @property
    def is_deleted(self) -> bool:
        """Whether the row was deleted while the page was open."""
        return bool(self.differences) and self.stored is None

    def _compare(self, loaded: dict[str, str]) -> None:
        """Note the differences, and take over what is stored in the fields that the user did not change."""
        data: Any = self.data
        self.data = data.copy()
        for name in (*_VALUES, *SECRETS):
            if name not in self.fields:
                continue
            before, now = loaded.get(name, ""), self._current.get(name, "")
            wanted = self.data.get(self.add_prefix(name)) or ""
            is_kept = _plain(wanted) == _plain(before) or (not wanted and name in _KEPT_IF_BLANK)
            if not is_kept or before != now:
                self.differences.append(self._difference(name, before, now, wanted, is_kept))
            if is_kept and name not in SECRETS and self.stored is not None:
                self._set(name, now)

    def _difference(self, name: str, before: str, now: str, wanted: str, is_kept: bool) -> Difference:
        label, is_contested = self.fields[name].label, not is_kept and before != now
        own = _("unchanged") if is_kept else _("entered") if name in SECRETS else self._words(name, wanted)
        if name in SECRETS:
            loaded, stored = "–", _("changed") if before != now else "–"
        else:
            loaded, stored = self._words(name, before), self._words(name, now)
        return Difference(label=label, loaded=loaded, stored=stored, wanted=own, is_contested=is_contested)

    def _words(self, name: str, value: str) -> Any:
        choices = dict(getattr(self.fields[name], "choices", ()))
        if name == "ca_certificates" and value:
            return certificate_names(value)
        return choices.get(value, value) or "–"

    def _set(self, name: str, value: str) -> None:
        data: Any = self.data
        data[self.add_prefix(name)] = value

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        if self.differences:
            self.add_error(None, str(_DELETED if self.is_deleted else _CHANGED))
            for name in SECRETS:
                if self.cleaned_data.get(name):
                    self.add_error(name, str(_("Enter it again: a page does not show what was entered here.")))
        return cleaned

    def check_not_changed(self, stored: SMTPConfig | None) -> None:
        """Raise ``ChangedMeanwhile`` if ``stored``, read under a lock, is not what the form was checked against."""
        if stored_values(stored) != self._current:
            raise ChangedMeanwhile


_CHANGED = _(
    "Not saved: this configuration was changed while the page was open. Compare the values below. The fields that you "
    "did not change now show what is stored. To save what the form shows, save again."
)
_DELETED = _(
    "Not saved: this configuration was deleted while the page was open. To add it again, without its secrets, save "
    "again."
)


def _read(given: str) -> dict[str, str]:
    try:
        found = _SIGNER.unsign_object(given)
    except (BadSignature, ValueError):
        return {"": ""}  # unlike all stored values
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {"": ""}


class ListActionForm(ActionForm):
    """The actions of the list, with the newest record of the history when the list was made."""

    seen = forms.CharField(label="", required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["seen"].initial = newest_record


def newest_record() -> int:
    """Return the id of the newest record in the history of all configurations."""
    return _history().order_by("-pk").values_list("pk", flat=True).first() or 0


def _history() -> Any:
    """Return the records of all configurations, read from the database that they are written to."""
    return SMTPConfig.history.using(SMTPConfig.objects.db)


def check_seen(seen: Any, config: SMTPConfig) -> None:
    """Raise ``ValidationError`` if the settings of ``config`` differ from those when ``seen`` was the newest record."""
    if _has_changed_since(seen, config):
        text = _("“%(name)s” was changed while the page was open. Check its settings, then activate it.")
        raise ValidationError(text % {"name": config.name}, code="changed_meanwhile")


def is_as_shown(seen: Any, config: SMTPConfig) -> bool:
    """Return whether ``config`` is as it was when ``seen`` was the newest record; it may be inactive since.

    A page without a usable ``seen`` is not checked.
    """
    if _has_changed_since(seen, config):
        return False
    shown = _shown(seen, config)
    return shown is None or shown.is_active or not config.is_active


def _shown(seen: Any, config: SMTPConfig) -> Any:
    """Return the record of ``config`` when ``seen`` was the newest one, or None."""
    if not str(seen or "").isdecimal() or len(str(seen)) > 18:
        return None
    return _history().filter(id=config.pk, pk__lte=int(seen)).order_by("-pk").first()


def _has_changed_since(seen: Any, config: SMTPConfig) -> bool:
    shown = _shown(seen, config)
    if shown is None:
        return False
    later = _history().filter(id=config.pk, pk__gt=int(seen))
    return _values_of(shown) != _values_of(config) or later.filter(password_changed=True).exists()
