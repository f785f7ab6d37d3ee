"""The name in EHLO: allowed names, and the name that is chosen."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import ValidationError

from email_integration.smtp import naming
from email_integration.smtp.naming import is_address_literal, is_domain, name_for
from email_integration.validators import validate_ehlo_name

LONGEST = ".".join(["a" * 63] * 3 + ["b" * 61])

DOMAINS = [
    "mail.example.com",
    "web-1.example.com",
    "xn--mller-kva.example",
    "a.b",
    "1.example",
    "MAIL.Example.COM",
    LONGEST,
]
LITERALS = ["[192.0.2.1]", "[IPv6:2001:db8::1]", "[ipv6:::1]", "[IPv6:::ffff:192.0.2.1]"]
NEITHER = [
    "",
    "web",
    "web_1.my_net",
    "localhost",
    "localhost.localdomain",
    "localhost.example.com",
    "web.localdomain",
    "localhost6.localdomain6",
    "localhost4.localdomain4",
    "localhost4",
    "web.localdomain6",
    "web.localhost",
    "müller.example",
    "mail.example.com.",
    ".example.com",
    "mail..example.com",
    "-mail.example.com",
    "mail-.example.com",
    "mail.example.com\r\nMAIL FROM:<x>",
    "mail.example.com\n",
    "mail example.com",
    " mail.example.com",
    f"{'a' * 64}.example.com",
    f"{LONGEST}b",
    "192.0.2.1",
    "2001:db8::1",
    "1.0.0.127.in-addr.arpa",
    "[192.0.2]",
    "[192.0.2.256]",
    "[2001:db8::1]",
    "[IPv6:192.0.2.1]",
    "[IPv6:fe80::1%eth0]",
    "[mail.example.com]",
    "[]",
]


@pytest.mark.parametrize("name", DOMAINS)
def test_full_names_of_letters_digits_and_hyphens_are_domains(name: str) -> None:
    assert is_domain(name)
    assert not is_address_literal(name)


@pytest.mark.parametrize("name", LITERALS)
def test_addresses_in_brackets_are_literals(name: str) -> None:
    assert is_address_literal(name)
    assert not is_domain(name)


@pytest.mark.parametrize("name", NEITHER)
def test_other_things_are_neither(name: str) -> None:
    assert not is_domain(name)
    assert not is_address_literal(name)


@pytest.mark.parametrize("name", [*DOMAINS, *LITERALS])
def test_what_may_be_said_may_be_entered(name: str) -> None:
    validate_ehlo_name(name)


@pytest.mark.parametrize("name", NEITHER)
def test_what_may_not_be_said_may_not_be_entered(name: str) -> None:
    with pytest.raises(ValidationError, match="full domain name"):
        validate_ehlo_name(name)


class Sock:
    """A socket with this local address."""

    def __init__(self, *address: Any) -> None:
        self._address = address

    def getsockname(self) -> tuple[Any, ...]:
        if self._address == ("closed",):
            raise OSError("Bad file descriptor")
        return self._address


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    naming.host_name.cache_clear()
    yield
    naming.host_name.cache_clear()


def said(monkeypatch: pytest.MonkeyPatch, fqdn: str, *address: Any, wanted: str = "") -> str:
    monkeypatch.setattr(socket, "getfqdn", lambda: fqdn)
    sock: Any = Sock(*address)
    return name_for(sock, wanted=wanted)


@pytest.mark.parametrize("fqdn", ["mail.example.com", "ip-10-0-0-1.ec2.internal"])
def test_the_full_name_of_the_host_is_said(monkeypatch: pytest.MonkeyPatch, fqdn: str) -> None:
    assert said(monkeypatch, fqdn, "192.0.2.1", 40000) == fqdn


@pytest.mark.parametrize("fqdn", [name for name in NEITHER if "\n" not in name and not name.endswith("com.")])
def test_a_host_without_a_proper_name_says_the_address_of_the_connection(
    monkeypatch: pytest.MonkeyPatch, fqdn: str
) -> None:
    """For example a container."""
    assert said(monkeypatch, fqdn, "172.17.0.2", 40000) == "[172.17.0.2]"


@pytest.mark.parametrize(
    ("address", "literal"),
    [
        (("2001:db8::1", 40000, 0, 0), "[IPv6:2001:db8::1]"),
        (("fe80::1%eth0", 40000, 0, 2), "[IPv6:fe80::1]"),
        (("::ffff:192.0.2.7", 40000, 0, 0), "[192.0.2.7]"),
        (("closed",), "[127.0.0.1]"),
        (("/run/socket",), "[127.0.0.1]"),
        ((), "[127.0.0.1]"),
    ],
)
def test_the_address_is_said_in_the_form_of_its_family(
    monkeypatch: pytest.MonkeyPatch, address: tuple[Any, ...], literal: str
) -> None:
    """RFC 5321 §4.1.3."""
    assert said(monkeypatch, "web", *address) == literal


@pytest.mark.parametrize("wanted", [*DOMAINS, *LITERALS])
def test_the_name_that_is_wanted_comes_first(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    assert said(monkeypatch, "host.example.com", "192.0.2.1", 40000, wanted=wanted) == wanted


@pytest.mark.parametrize("wanted", NEITHER)
def test_a_wanted_name_that_may_not_be_said_is_not(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    """It may have been written into the database without the form's validation."""
    assert said(monkeypatch, "host.example.com", "192.0.2.1", 40000, wanted=wanted) == "host.example.com"


def test_the_name_of_the_host_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a slow resolver would delay every session."""
    asked = []

    def getfqdn() -> str:
        asked.append(1)
        return "web"

    monkeypatch.setattr(socket, "getfqdn", getfqdn)
    sock: Any = Sock("192.0.2.1", 40000)
    assert [name_for(sock), name_for(sock)] == ["[192.0.2.1]"] * 2
    assert len(asked) == 1


def test_a_name_that_cannot_be_looked_up_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host may have such a name, although no resolver accepts it."""
    for name in ("a" * 64, "web..example.com", "web\ud800"):
        naming.host_name.cache_clear()
        monkeypatch.setattr(socket, "gethostname", lambda name=name: name)
        sock: Any = Sock("192.0.2.1", 40000)
        assert name_for(sock) == "[192.0.2.1]"


def test_the_dot_at_the_end_of_a_full_name_is_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(monkeypatch, "web.example.com.", "192.0.2.1", 40000) == "web.example.com"
