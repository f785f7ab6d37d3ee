"""Wrong passwords count against the account that they target, whatever the spelling of its name and the headers."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.core.cache.backends.locmem import LocMemCache
from django.db import connection
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext

from config.admin_auth import attempts
from config.admin_auth.attempts import OF_ADDRESS, OF_NAME, LoginAttempt, account_of, address_of
from tests.integration.test_admin_auth import PASSWORD, Clock, fail, staff, tried

BEHIND = ("HTTP_X_FORWARDED_PROTO", "https")

#: Names that Django accepts, or may accept, as kim, depending on the database.
SAME = ["ᵏᵢᵐ", "ｋｉｍ", "kim", " kim ", "KIM", "ＫＩＭ", "\u212aim", "k\u2071m", "𝐤𝐢𝐦", "\u00a0kim", "ᴷᴵᴹ"]


@pytest.mark.django_db
@pytest.mark.parametrize("name", SAME)
def test_another_spelling_is_no_other_name(name: str, clock: Clock) -> None:
    staff()
    fail(OF_NAME, name)
    for again in (name, "kim"):
        assert tried(again, PASSWORD).status_code == 429


@pytest.mark.django_db
def test_spellings_are_counted_together(clock: Clock) -> None:
    """Each spelling tried once counts like one spelling tried as often."""
    staff()
    for name in SAME[:OF_NAME]:
        assert tried(name).status_code == 200
    assert tried("kim", PASSWORD).status_code == 429
    assert tried(SAME[-1], PASSWORD).status_code == 429


@pytest.mark.django_db
def test_what_the_user_model_makes_of_a_name_counts(
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A user model may treat more names as the same: this one drops the part after a plus sign."""
    staff()
    model = get_user_model()
    monkeypatch.setattr(model, "normalize_username", classmethod(lambda cls, name: name.partition("+")[0]))
    for number in range(OF_NAME):
        assert tried(f"kim+{number}").status_code == 200
    assert tried("kim+new", PASSWORD).status_code == 429


@pytest.mark.django_db
def test_whom_the_database_finds_counts(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """MariaDB finds kim by 'kìm' as well, and by 'kim' with a soft hyphen."""
    staff()
    manager = type(get_user_model()._default_manager)
    found = manager.get_by_natural_key
    monkeypatch.setattr(manager, "get_by_natural_key", lambda self, name: found(self, "kim"))
    for name in ("kím", "kìm", "kîm", "k\u00adim", "kïm"):
        assert tried(name).status_code == 200
    assert tried("kim", PASSWORD).status_code == 429


@pytest.mark.django_db
def test_other_names_are_other_names(clock: Clock) -> None:
    staff()
    staff("lee")
    fail(OF_NAME, "ᵏᵢᵐ")
    assert tried("lee", PASSWORD).status_code == 302
    assert tried("kim", PASSWORD, address="192.0.2.2").status_code == 302
    assert tried("kim", PASSWORD).status_code == 429


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["", "\0", "kim\0", "\ud800", "k" * 5000, "\ufdfa" * 100_000, "\u202ekim"])
def test_no_name_breaks_the_page(name: str, clock: Clock) -> None:
    """Django does not query a name that is too long or impossible, and the limit does not normalise it at length."""
    staff()
    attempt = LoginAttempt(name=name, address="192.0.2.1")
    assert attempt.begin() == 0
    attempt.succeed()
    fail(OF_NAME, name.encode("utf-8", "replace").decode())
    assert tried("kim", PASSWORD).status_code == 302


@pytest.mark.django_db
def test_a_nul_is_not_sent_to_the_database(clock: Clock) -> None:
    """PostgreSQL rejects a NUL with an error, and any visitor can enter one in the form."""
    staff()
    for name in ("\0", "kim\0", "k\0im"):
        with CaptureQueriesContext(connection) as asked:
            assert account_of(name) == ""
            assert tried(name, PASSWORD).status_code == 200
        assert not any("auth_user" in query["sql"] for query in asked)


@pytest.mark.django_db
def test_a_user_model_of_the_project_may_find_users_in_its_own_way(
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Finding the user may fail: the name is counted anyway."""
    staff()
    manager = type(get_user_model()._default_manager)

    def find(self: Any, name: str) -> Any:
        raise KeyError(name)

    monkeypatch.setattr(manager, "get_by_natural_key", find)
    assert account_of("kim") == ""
    for _number in range(OF_NAME):
        LoginAttempt(name="kim", address="192.0.2.1", account=account_of("kim")).begin()
    assert LoginAttempt(name="ᵏᵢᵐ", address="192.0.2.1", account=account_of("ᵏᵢᵐ")).begin() > 0


SAME_ADDRESS = [
    (
        "192.0.2.1",
        [
            "192.0.2.1:5555",
            "192.0.2.1:80",
            "192.0.2.1:",
            "::ffff:192.0.2.1",
            "[::ffff:192.0.2.1]:443",
            '"192.0.2.1:5"',
            "64:ff9b::192.0.2.1",
            "[64:ff9b::c000:201]:443",
            "2002:c000:201::1",
            "2002:c000:201:ffff::1",
        ],
    ),
    (
        "2001:db8::1",
        [
            "[2001:db8::1]:443",
            "[2001:db8::1]",
            '"[2001:db8::1]:80"',
            "[2001:DB8:0:0::1]:1",
            "2001:db8::ffff",
            "[2001:db8::2]:443",
            "2001:db8::1%eth0",
            "[2001:db8::1%25eth0]:443",
            "[2001:db8::1%1]:9",
        ],
    ),
]


def asked(forwarded: str, address: str = "198.51.100.7") -> Any:
    return RequestFactory().get("/", REMOTE_ADDR=address, headers={"X-Forwarded-For": forwarded})


@pytest.mark.parametrize(("plain", "others"), SAME_ADDRESS)
def test_port_brackets_and_zone_make_no_other_address(plain: str, others: list[str], settings: Any) -> None:
    settings.SECURE_PROXY_SSL_HEADER = BEHIND
    for other in (*others, f"203.0.113.9, {others[0]}", f"203.0.113.9:1,{others[-1]}", f"nonsense, {plain}"):
        assert address_of(asked(other)) == address_of(asked(plain)), other
    settings.SECURE_PROXY_SSL_HEADER = None
    direct = {address_of(RequestFactory().get("/", REMOTE_ADDR=other)) for other in (plain, *others)}
    assert len(direct) == 1


@pytest.mark.parametrize(
    "forwarded", ["unknown", "_hidden", "", " ", "1.2.3.4,", "999.1.1.1", "[x]:1", "a:b", "[", "::1::"]
)
def test_what_is_no_address_does_not_make_one(forwarded: str, settings: Any) -> None:
    """The connection's own address remains, and an attacker has fewer addresses than words."""
    settings.SECURE_PROXY_SSL_HEADER = BEHIND
    assert address_of(asked(forwarded)) == "198.51.100.7"
    assert address_of(asked(forwarded, address="")) == ""


def test_headers_count_only_from_a_proxy_that_is_trusted(settings: Any) -> None:
    settings.SECURE_PROXY_SSL_HEADER = None
    spoofed = {"X-Forwarded-For": "203.0.113.1", "X-Real-IP": "203.0.113.2", "Forwarded": "for=203.0.113.3"}
    request = RequestFactory().get("/", REMOTE_ADDR="192.0.2.1", headers=spoofed)
    assert address_of(request) == "192.0.2.1"
    settings.SECURE_PROXY_SSL_HEADER = BEHIND
    request = RequestFactory().get("/", REMOTE_ADDR="192.0.2.1", headers={"X-Real-IP": "203.0.113.2"})
    assert address_of(request) == "192.0.2.1"


@pytest.mark.django_db
def test_a_new_port_for_each_login_does_not_begin_anew(clock: Clock, settings: Any) -> None:
    staff()
    settings.SECURE_PROXY_SSL_HEADER = BEHIND

    def log_in(password: str, port: int) -> int:
        client = Client(headers={"X-Forwarded-For": f"203.0.113.{port % 200}, [2001:db8::{port:x}]:{port}"})
        return client.post("/admin/login/", {"username": "kim", "password": password}).status_code

    assert [log_in("wrong", 1000 + number) for number in range(OF_NAME)] == [200] * OF_NAME
    assert log_in(PASSWORD, 2000) == 429


@pytest.mark.django_db
@pytest.mark.parametrize("shared", [True, False])
def test_new_names_without_end_take_no_room_without_end(
    shared: bool,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One address adds no more names than it may fail logins; one IPv6 network does not either."""
    counts = cache if shared else LocMemCache("attack", {"OPTIONS": {"MAX_ENTRIES": 100_000}})
    counts.clear()
    keys: set[str] = set()
    added = counts.add
    monkeypatch.setattr(attempts, "cache", counts)
    monkeypatch.setattr(counts, "add", lambda key, *given: (keys.add(key), added(key, *given))[1], raising=False)
    for number in range(2000):
        LoginAttempt(name=f"name{number}", address="192.0.2.1").begin()
    assert len(keys) <= 1 + OF_ADDRESS
    assert max(map(len, keys)) < 100
