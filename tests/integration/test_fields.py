"""The sealed password: the places where it can be read, and those where it never appears."""

from __future__ import annotations

import json
import pickle
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.exceptions import FieldError, ImproperlyConfigured
from django.core.management import call_command
from django.db import connection
from django.forms import modelform_factory
from django.forms.models import model_to_dict

from email_integration.exceptions import SecretMisplaced, SecretUnreadable
from email_integration.fields import Sealed, SecretPlace, seal
from email_integration.models import SMTPConfig

pytestmark = pytest.mark.django_db

SECRET = "s3cret-päßword"


@pytest.fixture
def keys(settings: Any) -> list[str]:
    """The current keys. A test may change the list."""
    found = [Fernet.generate_key().decode()]
    settings.EMAIL_INTEGRATION = {**settings.EMAIL_INTEGRATION, "SMTP_PASSWORD_KEYS": found}
    return found


def configuration(password: str = SECRET, **changes: Any) -> SMTPConfig:
    return SMTPConfig.objects.create(
        **{"name": "Primary", "host": "h", "from_email": "a@example.com", "password": password, **changes}
    )


def column() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT password FROM email_integration_smtpconfig")
        return str(cursor.fetchone()[0])


@pytest.mark.parametrize(
    "password", [SECRET, " blanks ", "fernet$", "fernet$gAAAAAnot-a-token", "x" * 5000, "gAAAA", "\n"]
)
def test_a_password_is_sealed_in_the_database_and_open_in_python(keys: list[str], password: str) -> None:
    configuration(password)
    assert column().startswith("fernet$1$gAAAA")
    assert password.strip() not in column().removeprefix("fernet$1$gAAAA") or password == "\n"
    assert SMTPConfig.objects.get().password == password


def test_no_password_is_no_secret(keys: list[str]) -> None:
    configuration("")
    assert column() == ""
    assert SMTPConfig.objects.get().password == ""


def test_an_update_seals_too(keys: list[str]) -> None:
    config = configuration("old")
    SMTPConfig.objects.filter(pk=config.pk).update(password=SECRET)
    assert SECRET not in column()
    assert SMTPConfig.objects.get().password == SECRET


def test_saving_again_changes_nothing(keys: list[str]) -> None:
    configuration()
    before = column()
    config = SMTPConfig.objects.get()
    config.host = "other"
    config.save()
    assert column() == before


def test_a_deferred_password_is_read_when_it_is_wanted(keys: list[str], django_assert_num_queries: Any) -> None:
    configuration()
    config = SMTPConfig.objects.defer("password").get()
    with django_assert_num_queries(1):
        assert config.password == SECRET
    before = column()
    SMTPConfig.objects.defer("password").get().save()
    assert column() == before


def test_old_keys_still_open(keys: list[str]) -> None:
    configuration()
    keys.insert(0, Fernet.generate_key().decode())
    assert SMTPConfig.objects.get().password == SECRET


def test_a_lost_key_spoils_the_secret_and_nothing_else(keys: list[str]) -> None:
    configuration()
    before = column()
    keys[:] = [Fernet.generate_key().decode()]
    (config,) = list(SMTPConfig.objects.all())
    assert str(config) == "Primary - h:587 (Inactive)"
    with pytest.raises(SecretUnreadable, match="SMTP_PASSWORD_KEYS") as caught:
        config.password  # noqa: B018  # reading is what opens it
    assert SECRET not in str(caught.value)
    config.host = "other"
    config.save()
    config.refresh_from_db()
    SMTPConfig.objects.activate(config)
    assert config.is_active
    assert column() == before


def test_refreshing_sees_what_others_wrote(keys: list[str]) -> None:
    config = configuration()
    SMTPConfig.objects.filter(pk=config.pk).update(password="other", host="new")
    config.refresh_from_db(fields=["host"])
    assert (config.host, config.password) == ("new", SECRET)
    config.refresh_from_db()
    assert config.password == "other"


@pytest.mark.parametrize("broken", [[], ["no key"]])
def test_without_a_key_nothing_is_stored_in_the_clear(keys: list[str], broken: list[str]) -> None:
    keys[:] = broken
    with pytest.raises(ImproperlyConfigured, match="SMTP_PASSWORD_KEYS"):
        configuration()
    assert not SMTPConfig.objects.exists()
    configuration("")


def test_a_form_never_shows_it(keys: list[str]) -> None:
    configuration()
    config = SMTPConfig.objects.get()
    assert model_to_dict(config)["password"] == ""
    shown = modelform_factory(SMTPConfig, fields=["name", "password"])(instance=config).as_p()
    assert SECRET not in shown
    assert "fernet$" not in shown


@pytest.mark.parametrize("lookup", ["password", "password__startswith", "password__in", "password__contains"])
def test_an_encrypted_field_cannot_be_searched(keys: list[str], lookup: str) -> None:
    with pytest.raises(FieldError):
        SMTPConfig.objects.filter(**{lookup: [SECRET]}).exists()


def test_nothing_that_is_printed_shows_it(keys: list[str]) -> None:
    configuration()
    config = SMTPConfig.objects.get()
    sealed = SMTPConfig.objects.values_list("password", flat=True).get()
    assert isinstance(sealed, Sealed)
    for shown in (repr(config), str(config), repr(vars(config)), repr(sealed), repr(SMTPConfig.objects.values())):
        assert SECRET not in shown
        assert "gAAAA" not in shown


def test_a_configuration_can_be_pickled_without_being_opened(keys: list[str]) -> None:
    configuration()
    pickled = pickle.dumps(SMTPConfig.objects.get())
    assert SECRET.encode() not in pickled
    assert pickle.loads(pickled).password == SECRET


def test_a_dump_carries_the_sealed_password_and_can_be_loaded(keys: list[str], tmp_path: Path) -> None:
    configuration()
    before = column()
    out = StringIO()
    call_command("dumpdata", "email_integration.smtpconfig", stdout=out)
    assert json.loads(out.getvalue())[0]["fields"]["password"] == {"sealed": before}
    SMTPConfig.objects.all().delete()
    (tmp_path / "dump.json").write_text(out.getvalue())
    call_command("loaddata", tmp_path / "dump.json", verbosity=0)
    # Django reads the attribute when it loads a dump. So the key is needed, and the token is new.
    assert column().startswith("fernet$1$gAAAA")
    assert SECRET not in column()
    assert SMTPConfig.objects.get().password == SECRET


def test_sealing_twice_gives_two_tokens() -> None:
    place = SecretPlace("email_integration.smtpconfig", "password", "a row")
    assert seal(SECRET, place) != seal(SECRET, place)
    assert seal(SECRET, place).open(place) == SECRET


@pytest.mark.parametrize("other", [("other", "field", "row"), ("model", "other", "row"), ("model", "field", "other")])
def test_a_token_opens_in_its_place_only(other: tuple[str, str, str]) -> None:
    sealed = seal(SECRET, SecretPlace("model", "field", "row"))
    with pytest.raises(SecretMisplaced):
        sealed.open(SecretPlace(*other))


def test_a_token_of_another_version_does_not_open() -> None:
    """A token with its version removed or added does not open either: the version is sealed too."""
    place = SecretPlace("model", "field", "row")
    stored = str(seal(SECRET, place))
    for changed in (stored.replace("$1$", "$2$"), stored.replace("$1$", "$"), stored.replace("$1$", "$1$1$")):
        with pytest.raises(SecretUnreadable):
            Sealed(changed).open(place)


def test_nothing_is_sealed_for_a_row_without_an_identifier(keys: list[str]) -> None:
    with pytest.raises(ValueError, match="seal_id is empty"):
        configuration(seal_id="")
