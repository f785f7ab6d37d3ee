"""A model field that encrypts its value with MultiFernet, under separate keys (``SMTP_PASSWORD_KEYS``).

The database holds ``fernet$``, the version of the format, and a token. The token is bound to its place: the model, the
field, and an identifier of the row. A token that is copied elsewhere cannot be decrypted there, so the app does not
help an attacker who has found a token in a backup.

Fernet has no associated data, so the place is inside the token: its SHA-256 digest, followed by the text. A value read
from the database stays sealed until the attribute is read, so a lost key affects one secret, not the whole page or
query.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db import models
from django.utils import translation
from django.utils.crypto import constant_time_compare
from django.utils.translation import gettext_lazy as _

from email_integration.secrecy import with_secrets

from . import conf
from .exceptions import SecretMisplaced, SecretUnreadable

if TYPE_CHECKING:
    from django.utils.functional import _StrOrPromise

    _TextField = models.TextField[Any, Any]
else:
    _TextField = models.TextField

#: The prefix of every sealed value, of any version.
PREFIX = "fernet$"

_VERSION = "1"
_BEFORE = f"{PREFIX}{_VERSION}$"
_DIGEST = hashlib.sha256().digest_size

#: The one key of the mapping that represents a sealed value in a dump. No form field produces a mapping.
_IN_DUMPS = "sealed"

UNREADABLE = _(
    "The stored password cannot be opened with the keys in SMTP_PASSWORD_KEYS. "
    "Put the key it was sealed with back into SMTP_PASSWORD_KEYS, or enter the password again."
)
MISPLACED = _(
    "The stored value was sealed for another row or another field, so it cannot be used here. Enter the password again."
)

#: Why an update cannot be written.
_FOR_ONE_ROW = (
    "{field}: text is sealed for one row. Set it on an instance and save the instance, or use update() of its manager."
)
_NOT_COPIED = "{field}: the database cannot copy sealed values. Pass the text instead."


def new_row() -> str:
    """Return a new identifier for a row: random, because a primary key is not known before the first insert."""
    return secrets.token_hex(16)


def why_unreadable(error: SecretUnreadable) -> _StrOrPromise:
    """Return the text that explains ``error`` to people."""
    return MISPLACED if isinstance(error, SecretMisplaced) else UNREADABLE


@dataclass(frozen=True)
class SecretPlace:
    """The place that a value is sealed for: ``model`` by its label, ``field``, and the identifier of the ``row``."""

    model: str
    field: str
    row: str

    @property
    def digest(self) -> bytes:
        """The digest that is sealed together with the text. No name of a model or field holds a NUL."""
        return hashlib.sha256("\0".join((_BEFORE, self.model, self.field, self.row)).encode()).digest()


@dataclass(frozen=True)
class Sealed:
    """A sealed value in its stored form."""

    stored: str

    def __repr__(self) -> str:
        return "<Sealed>"

    def __str__(self) -> str:
        return self.stored

    @property
    def token(self) -> bytes:
        """The Fernet token; empty when the value has another format version."""
        return self.stored.removeprefix(_BEFORE).encode() if self.stored.startswith(_BEFORE) else b""

    @with_secrets
    def open(self, place: SecretPlace) -> str:
        """Return the plain text.

        Raises ``SecretUnreadable`` when no key fits, and ``SecretMisplaced`` when the value was not sealed for
        ``place``.
        """
        try:
            opened = keys().decrypt(self.token)
        except (InvalidToken, ImproperlyConfigured) as error:
            with translation.override(None):
                raise SecretUnreadable(str(UNREADABLE)) from error
        if not constant_time_compare(opened[:_DIGEST], place.digest):
            with translation.override(None):
                raise SecretMisplaced(str(MISPLACED))
        return opened[_DIGEST:].decode()

    @with_secrets
    def check(self, place: SecretPlace) -> None:
        """Raise ``SecretMisplaced`` if the value was sealed for another place. A value that no key opens passes."""
        try:
            self.open(place)
        except SecretMisplaced:
            raise
        except SecretUnreadable:
            pass  # it cannot be opened in any other place either


class Placed(str):
    """An opened value that knows its ``place``; a write seals it again for that place.

    When Django loads a dump, it passes the field only the value, not the instance.
    """

    place: SecretPlace | None = None


@with_secrets
def keys() -> MultiFernet:
    """Return the configured keys, newest first.

    Raises ``ImproperlyConfigured`` when there are no keys or one is malformed.
    """
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
        raise ImproperlyConfigured("SMTP_PASSWORD_KEYS contains a value that is not a Fernet key.") from error


@functools.lru_cache(maxsize=4)
@with_secrets
def _keys(given: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in given])


@with_secrets
def newest_key() -> Fernet:
    """Return the key that passwords are sealed with. Raises the same errors as ``keys``."""
    keys()
    return Fernet(conf.get("SMTP_PASSWORD_KEYS")[0])


@with_secrets
def fingerprints() -> tuple[str, ...]:
    """Return a fingerprint of each configured key, newest first. Raises the same errors as ``keys``.

    A key is 256 random bits, so its hash is safe to show: it does not help to guess the key.
    """
    keys()
    given = conf.get("SMTP_PASSWORD_KEYS")
    return tuple(hashlib.sha256(b"email_integration:" + _octets(key)).hexdigest()[:16] for key in given)


def _octets(key: str | bytes) -> bytes:
    return key.encode() if isinstance(key, str) else key


@with_secrets
def seal(plain: str, place: SecretPlace) -> Sealed:
    """Return ``plain`` sealed for ``place`` under the newest key. Raises the same errors as ``keys``."""
    return Sealed(_BEFORE + keys().encrypt(place.digest + plain.encode()).decode())


class _SealedAttribute:
    """A descriptor that opens the secret only when the attribute is read."""

    def __init__(self, field: EncryptedTextField) -> None:
        self.field = field

    @with_secrets
    def __get__(self, instance: models.Model | None, owner: type[models.Model]) -> Any:
        if instance is None:
            return self
        value = self.field.raw(instance)
        if not value or not isinstance(value, (str, Sealed)):
            return value
        if isinstance(value, str) and not getattr(instance, self.field.row):
            return value  # not sealed for a row yet
        place = self.field.place_of(instance)
        opened = Placed(value.open(place) if isinstance(value, Sealed) else value)
        opened.place = place
        return opened

    @with_secrets
    def __set__(self, instance: models.Model, value: Any) -> None:
        # From now on the value belongs to this instance.
        instance.__dict__[self.field.attname] = str(value) if isinstance(value, Placed) else value


class EncryptedTextField(_TextField):
    """Text that is encrypted at rest; the empty string stays empty.

    ``row`` names the field that identifies the row. The value of that field never changes.
    """

    description = "Encrypted text"

    def __init__(self, *args: Any, row: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.row = row

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        return name, path, args, {**kwargs, "row": self.row}

    def contribute_to_class(self, cls: type[models.Model], name: str, private_only: bool = False) -> None:
        super().contribute_to_class(cls, name, private_only)
        setattr(cls, self.attname, _SealedAttribute(self))

    def place_of(self, instance: models.Model) -> SecretPlace:
        """Return the place of the value of ``instance``. Raises ``ValueError`` when no identifier of its row is set."""
        return self.place_in(str(getattr(instance, self.row) or ""))

    def place_in(self, row: str) -> SecretPlace:
        """Return the place of this field's value in the row with the identifier ``row``.

        Raises ``ValueError`` when ``row`` is empty.
        """
        if not row:
            raise ValueError(f"{self.row} is empty, so no value can be sealed for this row.")
        return SecretPlace(self.model._meta.label_lower, self.name, row)

    def raw(self, instance: models.Model) -> Any:
        """Return the value as the instance holds it: ``Sealed`` if it came from the database, otherwise plain text."""
        if self.attname not in instance.__dict__:
            self.reload(instance)
        return instance.__dict__[self.attname]

    def reload(self, instance: models.Model, *, using: str | None = None) -> None:
        """Read the value from the database again and leave it sealed; ``refresh_from_db`` would open it."""
        rows = type(instance)._base_manager.using(using or instance._state.db)
        instance.__dict__[self.attname] = rows.values_list(self.attname, flat=True).get(pk=instance.pk)

    def from_db_value(self, value: str | None, expression: Any, connection: Any) -> Any:
        """Return a sealed value as ``Sealed``; return plain text, which other code wrote, unchanged."""
        return Sealed(value) if value and value.startswith(PREFIX) else value

    @with_secrets
    def to_python(self, value: Any) -> Any:
        """Return text unchanged, whatever its form. A sealed value is accepted only as the mapping of a dump.

        Raises ``ValidationError`` for any other mapping.
        """
        if isinstance(value, Sealed):
            return value
        if isinstance(value, Mapping):
            stored = value.get(_IN_DUMPS)
            if len(value) != 1 or not isinstance(stored, str) or not stored.startswith(PREFIX):
                raise ValidationError("This is not a sealed value.", code="invalid")
            return Sealed(stored)
        return super().to_python(value)

    @with_secrets
    def clean(self, value: Any, model_instance: models.Model | None) -> Any:
        """Validate as Django does. Raises ``ValidationError`` for a mapping: it is accepted only by ``loaddata``."""
        if isinstance(value, Mapping):
            raise ValidationError("This is not text.", code="invalid")
        return super().clean(value, model_instance)

    @with_secrets
    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        """Seal the value once. Afterwards the instance holds no plain text, and another save writes the same token.

        Raises ``SecretMisplaced`` for a value that was sealed for another row or field.
        """
        value = self.raw(model_instance)
        if not value:
            return value
        sealed = self.sealed_for(value, self.place_of(model_instance))
        model_instance.__dict__[self.attname] = sealed
        return sealed

    @with_secrets
    def sealed_for(self, value: Any, place: SecretPlace) -> Sealed:
        """Return ``value``, plain text or sealed, in the form to store in ``place``.

        Raises ``SecretMisplaced`` for a value sealed for another place, and ``TypeError`` for another type: an
        expression would copy a column.
        """
        if isinstance(value, Sealed):
            value.check(place)
            return value
        if not isinstance(value, str):
            raise TypeError(_NOT_COPIED.format(field=self.name))
        return seal(value, place)

    @with_secrets
    def get_prep_value(self, value: Any) -> Any:
        """Return the value for the database. Raises ``TypeError`` for text whose row is not known."""
        if isinstance(value, Sealed):
            return value.stored
        if not value:
            return value
        place = value.place if isinstance(value, Placed) else None
        if place is None or (place.model, place.field) != (self.model._meta.label_lower, self.name):
            raise TypeError(_FOR_ONE_ROW.format(field=self.name))
        return seal(value, place).stored

    def value_from_object(self, obj: models.Model) -> Any:
        """Return '': forms never get the secret."""
        return ""

    @with_secrets
    def value_to_string(self, obj: models.Model) -> Any:
        """Return the value for a dump: a mapping, because text could be mistaken for a password."""
        value = self.raw(obj)
        if value and not isinstance(value, Sealed):
            value = self.sealed_for(value, self.place_of(obj))
        return {_IN_DUMPS: value.stored} if value else ""

    def get_lookup(self, lookup_name: str) -> Any:
        """Return a lookup only for 'is null': two tokens of the same text differ, so no other lookup is meaningful."""
        return super().get_lookup(lookup_name) if lookup_name == "isnull" else None
