"""The history of configurations: all ways to change one, and no secrets."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth import get_user_model

from email_integration.models import SMTPConfig
from email_integration.models.audit import Event, note

pytestmark = pytest.mark.django_db


def configuration(name: str = "A", **changes: Any) -> SMTPConfig:
    values: dict[str, Any] = {"host": "h", "from_email": "a@example.com", "username": "u", "password": "kept-secret"}
    return SMTPConfig.objects.create(name=name, **values | changes)


def events(config: SMTPConfig) -> list[tuple[str, bool]]:
    """Return the events, oldest first, each with whether the password changed."""
    return [(entry.event, entry.password_changed) for entry in config.history.order_by("history_id")]


def test_creating_is_recorded() -> None:
    """With and without a password."""
    assert events(configuration("A")) == [("created", True)]
    assert events(configuration("B", password="")) == [("created", False)]


def test_a_change_is_recorded_with_its_values() -> None:
    """The old and the new values."""
    config = configuration()
    config.host = "other"
    config.save()

    newest, oldest = config.history.all()
    assert events(config) == [("created", True), ("changed", False)]
    assert (oldest.host, newest.host) == ("h", "other")
    assert (
        newest.diff_against(oldest).changed_fields == ["host"] or "host" in newest.diff_against(oldest).changed_fields
    )


def test_a_changed_password_is_recorded_as_that() -> None:
    """A save that leaves the password unchanged is not recorded as a change of it."""
    config = configuration()
    config.password = "another"
    config.save()
    config.save()

    assert events(config) == [("created", True), ("changed", True), ("changed", False)]


def test_switching_is_recorded_for_both() -> None:
    """By save, by the manager, and by update."""
    a, b = configuration("A", is_active=True), configuration("B")

    SMTPConfig.objects.activate(b)
    a.refresh_from_db()
    a.is_active = True
    a.save()
    SMTPConfig.objects.all().update(is_active=False)

    assert events(a) == [("created", True), ("deactivated", False), ("activated", False), ("deactivated", False)]
    assert [event for event, _ in events(b)] == ["created", "activated", "deactivated", "changed"]


def test_update_is_recorded_for_each_row() -> None:
    """No history library does this."""
    a, b = configuration("A"), configuration("B")

    SMTPConfig.objects.filter(name="A").update(host="other")
    SMTPConfig.objects.update(password="another")

    assert events(a) == [("created", True), ("changed", False), ("changed", True)]
    assert events(b) == [("created", True), ("changed", True)]
    assert a.history.first().host == "other"


def test_bulk_operations_are_recorded() -> None:
    """Creating, updating and deleting."""
    SMTPConfig.objects.bulk_create([SMTPConfig(name="A", host="h", from_email="a@example.com", password="p")])
    config = SMTPConfig.objects.get()
    config.host = "other"
    SMTPConfig.objects.bulk_update([config], ["host"])
    pk = config.pk
    SMTPConfig.objects.all().delete()

    history = SMTPConfig.history.filter(id=pk).order_by("history_id")
    assert [entry.event for entry in history] == ["created", "changed", "deleted"]


def test_tests_and_views_are_recorded_with_who_made_them() -> None:
    """They do not change the configuration."""
    user = get_user_model().objects.create_user("kim")
    config = configuration()

    config.record_test(passed=False, detail="auth: 535", user=user)
    config.record_test(passed=True, detail="TLSv1.3", user=user)
    note(config, Event.VIEWED, user=user)

    assert [event for event, _ in events(config)] == ["created", "tested", "tested", "viewed"]
    entries = list(config.history.order_by("history_id"))[1:]
    assert {entry.history_user for entry in entries} == {user}
    assert [entry.history_change_reason or "" for entry in entries] == ["auth: 535", "passed", ""]


def test_no_secret_is_in_the_history() -> None:
    """Neither in plain text nor sealed."""
    config = configuration()
    config.password = "another-secret"
    config.save()
    SMTPConfig.objects.update(password="third-secret")
    config.refresh_from_db()

    everything = repr([vars(entry) for entry in SMTPConfig.history.all()])

    for secret in ("kept-secret", "another-secret", "third-secret", "fernet$", "gAAAA"):
        assert secret not in everything


def test_a_configuration_can_be_put_back_as_it_was() -> None:
    """All values except the password, which keeps its current value."""
    config = configuration()
    config.host, config.timeout, config.password = "wrong", 99, "newer"
    config.save()

    config.history.order_by("history_id").first().instance.save()

    now = SMTPConfig.objects.get()
    assert (now.host, now.timeout, now.password) == ("h", 10, "newer")
    assert [event for event, _ in events(now)] == ["created", "changed", "changed"]


def test_putting_back_an_active_one_leaves_one_active() -> None:
    """It replaces the active configuration."""
    a = configuration("A", is_active=True)
    configuration("B", is_active=True)

    a.history.order_by("history_id").first().instance.save()

    assert list(SMTPConfig.objects.filter(is_active=True).values_list("name", flat=True)) == ["A"]


def test_the_history_outlives_the_configuration() -> None:
    """It keeps the deleted values, and the user who deleted them."""
    configuration().delete()

    newest = SMTPConfig.history.first()
    assert (newest.event, newest.name, newest.host) == ("deleted", "A", "h")
