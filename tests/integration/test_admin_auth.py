"""Failed logins: how many are checked, and how long logins are refused after too many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.test import Client, RequestFactory

from config.admin_auth import attempts
from config.admin_auth.attempts import OF_ADDRESS, OF_NAME, WINDOW, LoginAttempt, address_of
from config.local.valkey import Valkey

LOGIN = "/admin/login/"
PASSWORD = "correct horse battery"


class Clock:
    """A clock that stands still at the beginning of a window."""

    now = 1_000_000 * WINDOW + 0.5

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, fresh_process: None, settings: Any) -> Iterator[Clock]:
    """Set the clock of the counters, which are empty, and use a fast password hasher."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    clock = Clock()
    monkeypatch.setattr(attempts, "time", clock)
    attempts._OF_THIS_PROCESS.clear()
    yield clock
    attempts._OF_THIS_PROCESS.clear()


def staff(name: str = "kim") -> None:
    get_user_model().objects.create_superuser(username=name, email=f"{name}@example.com", password=PASSWORD)


def tried(name: str = "kim", password: str = "wrong", *, address: str = "192.0.2.1") -> Any:
    client = Client(REMOTE_ADDR=address)
    return client.post(LOGIN, {"username": name, "password": password, "next": "/admin/"})


def fail(times: int, name: str = "kim", **given: Any) -> None:
    for _ in range(times):
        assert tried(name, **given).status_code == 200


@pytest.mark.django_db
def test_after_too_many_wrong_passwords_the_right_one_has_to_wait(clock: Clock) -> None:
    """The page and Retry-After say how long. Further attempts do not extend the wait."""
    staff()
    fail(OF_NAME)
    for name in ("kim", "KIM "):
        clock.now += 1
        refused = tried(name, PASSWORD)
        wait = int(refused.headers["Retry-After"])
        assert refused.status_code == 429
        assert 0 < wait <= WINDOW
        assert f"Try again in {wait} seconds." in refused.content.decode()
        assert "no-store" in refused.headers["Cache-Control"]
    clock.now += wait
    assert tried(password=PASSWORD).status_code == 302


@pytest.mark.django_db
def test_others_are_not_kept_out(clock: Clock) -> None:
    """The same name from another address, and another name from this address, can still log in."""
    staff()
    staff("hanna")
    fail(OF_NAME)
    assert tried(password=PASSWORD).status_code == 429
    assert tried(password=PASSWORD, address="192.0.2.2").status_code == 302
    assert tried("hanna", PASSWORD).status_code == 302


@pytest.mark.django_db
def test_one_address_cannot_try_names_without_end(clock: Clock) -> None:
    for number in range(OF_ADDRESS):
        assert not LoginAttempt(name=f"name{number}", address="192.0.2.1").begin()
    assert tried("one more").status_code == 429
    assert tried("one more", address="192.0.2.2").status_code == 200


@pytest.mark.django_db
def test_a_right_password_takes_back_what_was_counted(clock: Clock) -> None:
    """Users who sometimes mistype, and an office behind one address, never have to wait."""
    staff()
    for _ in range(OF_ADDRESS + 1):
        assert tried(password=PASSWORD).status_code == 302
    fail(OF_NAME - 1)
    assert tried(password=PASSWORD).status_code == 302
    fail(OF_NAME)
    assert tried().status_code == 429


@pytest.mark.django_db
def test_the_bound_holds_without_the_shared_cache(clock: Clock, valkey: Valkey) -> None:
    """Each process then counts on its own, and users with the right password can log in."""
    staff()
    valkey.stop()
    assert tried(password=PASSWORD).status_code == 302
    fail(OF_NAME)
    assert tried(password=PASSWORD).status_code == 429


def test_no_name_and_no_address_is_in_the_cache(clock: Clock, valkey: Valkey) -> None:
    """A user may type a password into the name field."""
    LoginAttempt(name="secret-name", address="192.0.2.1").begin()
    keys = cache._cache.get_client().keys("*admin_auth*")  # type: ignore[attr-defined]
    assert len(keys) == 2
    assert not [key for key in keys if b"secret" in key or b"192" in key]


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8:0:0:ffff::1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("", ""),
    ],
)
def test_an_address_of_ipv6_counts_as_its_network(address: str, counted: str) -> None:
    assert address_of(RequestFactory(REMOTE_ADDR=address).get("/")) == counted


def test_only_behind_a_proxy_is_its_word_taken_and_only_the_last(settings: Any) -> None:
    """The client can forge all earlier entries of X-Forwarded-For."""
    request = RequestFactory(REMOTE_ADDR="10.0.0.1", HTTP_X_FORWARDED_FOR="192.0.2.9, 192.0.2.1").get("/")
    assert address_of(request) == "10.0.0.1"
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    assert address_of(request) == "192.0.2.1"
    assert address_of(RequestFactory(REMOTE_ADDR="10.0.0.1").get("/")) == "10.0.0.1"
