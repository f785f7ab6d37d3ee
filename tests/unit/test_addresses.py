"""Plain addresses take a fast path, which gives the same result as the full path."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from email_integration import addresses
from email_integration.exceptions import InvalidMail

LOCAL = string.ascii_letters + string.digits + "_+-."
DOMAIN = string.ascii_letters + string.digits + "-."
NAME = string.ascii_letters + string.digits + " "


def outcome(parse: object, text: str) -> str:
    try:
        return str(parse(text))  # type: ignore[operator]
    except InvalidMail:
        return "refused"


@given(
    name=st.sampled_from(["", "Kim", "Kim Lee", " Kim", "Kim  Lee "]) | st.text(NAME, max_size=12),
    local=st.text(LOCAL, min_size=1, max_size=80),
    domain=st.text(DOMAIN, min_size=1, max_size=90),
    bracketed=st.booleans(),
)
@example(name="", local="a" * 64, domain="b" * 63 + ".example", bracketed=False)
@example(name="", local="a" * 65, domain="example.com", bracketed=False)
@example(name="", local="a." * 32 + "a", domain="example.com", bracketed=True)
@example(name="", local="a", domain=".".join(["b" * 63] * 4), bracketed=False)
@example(name="", local="a", domain=".".join(["b" * 63] * 3) + "." + "c" * 62, bracketed=False)
@example(name="", local="a", domain="b" * 64 + ".example", bracketed=False)
@example(name="", local="a", domain="-b.example-", bracketed=False)
@example(name="Kim Lee", local="a", domain="example.com", bracketed=True)
@example(name="Kim Lee", local="a", domain="example.com", bracketed=False)
def test_the_short_way_leads_where_the_long_one_does(name: str, local: str, domain: str, bracketed: bool) -> None:
    address = f"{local}@{domain}"
    text = f"{name} <{address}>" if bracketed else f"{name} {address}" if name else address
    assert outcome(addresses.envelope_address, text) == outcome(addresses._parsed, text)


@pytest.mark.parametrize("text", ["kim@example.com", "Kim.Lee+tag@Mail.Example.COM", "Kim Lee <kim@example.com>"])
def test_what_nearly_all_addresses_look_like_is_taken_by_the_short_way(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "_parsed", lambda text: pytest.fail("the full parser was called"))
    assert addresses.envelope_address(text) in text


@pytest.mark.parametrize("text", ["kim@example.com\n", "kim@example.com\r\nRCPT TO:<x@y.example>", "kïm@example.com"])
def test_a_line_break_or_a_letter_beyond_ascii_is_nothing_plain(text: str) -> None:
    assert addresses._PLAIN.fullmatch(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "kim@[127.0.0.1]",
        "Kim <kim@[127.0.0.1]>",
        "kim@[IPv6:2001:db8::1]",
        "kim@xn--bcher-kva.example",
        "kim@b_c.example",
    ],
)
def test_an_address_literal_is_a_domain_on_each_python(text: str) -> None:
    """RFC 5321 §4.1.3; the strict parser of newer Pythons accepts no address literal."""
    assert addresses.envelope_address(text) in text


@pytest.mark.parametrize(
    "text",
    [
        "alice@example.org)bob@evil.example",
        "alice@example.org bob@evil.example",
        "a@b.example, c@d.example",
        "a@b.example <c@d.example>",
        "undisclosed:;",
        "friends: a@b.example, c@d.example;",
        "a@[b@c]",
        "a@[<evil@x>]",
        "a@[1>]",
        "a@[127.0.0.1] b",
        "a@[é]",
        "a@b＠c.example",
        "a@b＞c.example",
        "a@b%c.example",
        "@a.example:b@c.example",
        "a@",
        "@b.example",
        "a@b@c.example",
    ],
)
def test_what_is_not_one_address_is_refused_on_each_python(text: str) -> None:
    """The app uses the lenient parser and refuses here everything that the strict parser would refuse."""
    with pytest.raises(InvalidMail):
        addresses.envelope_address(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Kim <kim@[127.0.0.1]>", ["kim@[127.0.0.1]"]),
        ("kim@example.com, Lee <lee@example.com>", ["kim@example.com", "lee@example.com"]),
        ("", []),
    ],
)
def test_addresses_in_a_header_are_found_on_each_python(text: str, found: list[str]) -> None:
    assert [one for one in addresses.addresses_in(text) if one] == found
