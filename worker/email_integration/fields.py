"""A model field that seals what it stores with MultiFernet, under keys of its own (``SMTP_PASSWORD_KEYS``).

In the database stands ``fernet$`` and a token. A value read from there stays sealed until the attribute is read, so a
lost key spoils one secret, not the page or the query it was on.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.utils import translation
from django.utils.translation import gettext_lazy as _

from email_integration.secrecy import with_secrets

from . import conf
from .exceptions import SecretUnreadable

if TYPE_CHECKING:
    _TextField = models.TextField[Any, Any]
else:
    _TextField = models.TextField

PREFIX = "fernet$"

UNREADABLE = _(
    "The stored password cannot be opened with the keys in SMTP_PASSWORD_KEYS. "
    "Put the key it was sealed with back into SMTP_PASSWORD_KEYS, or enter the password again."
)

#: What a dump or a form may bring that is sealed already: not just any text that begins like it.
_TOKEN = re.compile(re.escape(PREFIX) + r"gAAAA[\w-]{60,}=*", re.ASCII)


@dataclass(frozen=True)
class Sealed:
    """A value as it stands in the database."""

    stored: str

    def __repr__(self) -> str:
        return "<Sealed>"

    def __str__(self) -> str:
        return self.stored

    @property
    def token(self) -> bytes:
        """The Fernet token in it."""
        return self.stored.removeprefix(PREFIX).encode()

    @with_secrets
    def open(self) -> str:
        """Return the plain text; raises ``SecretUnreadable`` when no key fits."""
        try:
            return keys().decrypt(self.token).decode()
        except (InvalidToken, ImproperlyConfigured) as error:
            with translation.override(None):
                raise SecretUnreadable(str(UNREADABLE)) from error


@with_secrets
def keys() -> MultiFernet:
    """The keys in force, newest first. Raises ``ImproperlyConfigured`` when there are none or one is malformed."""
    given = conf.get("SMTP_PASSWORD_KEYS")
    if not given:
        raise ImproperlyConfigured(
            "SMTP_PASSWORD_KEYS is not set, so SMTP passwords cannot be stored. Make a key with "
            '`python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"` '
            "and put it into EMAIL_INTEGRATION['SMTP_PASSWORD_KEYS']."
        )
    try:
        return _keys(tuple(given))
    except ValueError as error:
        raise ImproperlyConfigured("SMTP_PASSWORD_KEYS holds something that is not a Fernet key.") from error


@functools.lru_cache(maxsize=4)
@with_secrets
def _keys(given: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in given])


@with_secrets
def newest_key() -> Fernet:
    """The key that passwords are sealed with. Raises as ``keys`` does."""
    keys()
    return Fernet(conf.get("SMTP_PASSWORD_KEYS")[0])


@with_secrets
def seal(plain: str) -> Sealed:
    """Seal ``plain`` under the newest key."""
    return Sealed(PREFIX + keys().encrypt(plain.encode()).decode())


class _SealedAttribute:
    """Opens the secret when, and only when, the attribute is read."""

    def __init__(self, field: EncryptedTextField) -> None:
        self.field = field

    @with_secrets
    def __get__(self, instance: models.Model | None, owner: type[models.Model]) -> Any:
        if instance is None:
            return self
        value = self.field.raw(instance)
        return value.open() if isinstance(value, Sealed) else value

    @with_secrets
    def __set__(self, instance: models.Model, value: Any) -> None:
        instance.__dict__[self.field.attname] = value


class EncryptedTextField(_TextField):
    """Text that is encrypted at rest; the empty string stays empty."""

    description = "Encrypted text"

    def contribute_to_class(self, cls: type[models.Model], name: str, private_only: bool = False) -> None:
        super().contribute_to_class(cls, name, private_only)
        setattr(cls, self.attname, _SealedAttribute(self))

    def raw(self, instance: models.Model) -> Any:
        """The value as the instance holds it: ``Sealed`` if it came from the database, else plain."""
        if self.attname not in instance.__dict__:
            self.reload(instance)
        return instance.__dict__[self.attname]

    def reload(self, instance: models.Model, *, using: str | None = None) -> None:
        """Read the value again and leave it sealed, which ``refresh_from_db`` would open."""
        rows = type(instance)._base_manager.using(using or instance._state.db)
        instance.__dict__[self.attname] = rows.values_list(self.attname, flat=True).get(pk=instance.pk)

    def from_db_value(self, value: str | None, expression: Any, connection: Any) -> Any:
        """Keep what is sealed sealed; what is not was written by something else and is taken as it is."""
        return Sealed(value) if value and value.startswith(PREFIX) else value

    @with_secrets
    def to_python(self, value: Any) -> Any:
        """A dump carries the sealed form, and it is recognised when the dump is loaded."""
        if isinstance(value, Sealed):
            return value
        text = super().to_python(value)
        return Sealed(text) if isinstance(text, str) and _TOKEN.fullmatch(text) else text

    @with_secrets
    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        """Seal once: from here on the instance holds no plain text, and another save writes the same token."""
        value = self.raw(model_instance)
        if value and not isinstance(value, Sealed):
            value = seal(value)
            model_instance.__dict__[self.attname] = value
        return value

    @with_secrets
    def get_prep_value(self, value: Any) -> Any:
        if isinstance(value, Sealed):
            return value.stored
        return seal(value).stored if value else value

    def value_from_object(self, obj: models.Model) -> Any:
        """Forms never get the secret."""
        return ""

    @with_secrets
    def value_to_string(self, obj: models.Model) -> str:
        return str(self.get_prep_value(self.raw(obj)) or "")

    def get_lookup(self, lookup_name: str) -> Any:
        """Two tokens of the same text differ, so nothing but 'is null' can be asked."""
        return super().get_lookup(lookup_name) if lookup_name == "isnull" else None
