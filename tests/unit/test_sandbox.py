"""The recipients that mail is really sent to: the whole table."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given
from hypothesis import strategies as st

from email_integration.addresses import recipient_rule
from email_integration.exceptions import InvalidMail
from email_integration.outcomes.causes import Cause
from email_integration.outcomes.classification import Accepted, Deferred, Failed, InDoubt, Skipped
from email_integration.sending import sandbox
from email_integration.smtp import Reply

CUSTOMERS = ("kim@customer.com", "Lee@Customer.com")


def plan(recipients: tuple[str, ...], redirect_to: Any = (), allowed: Any = ()) -> sandbox.Plan:
    return sandbox.plan(
        recipients, redirect_to=sandbox.redirections(list(redirect_to)), allowed=sandbox.permissions(list(allowed))
    )


@pytest.mark.parametrize(
    ("redirect_to", "allowed", "envelope", "withheld"),
    [
        ([], [], CUSTOMERS, ()),
        (["staging@us.com"], [], ("staging@us.com",), ()),
        (["a@us.com", "b@us.com"], [], ("a@us.com", "b@us.com"), ()),
        (["a@us.com", "a@us.com"], [], ("a@us.com",), ()),
        ([], ["us.com"], (), CUSTOMERS),
        ([], ["customer.com"], CUSTOMERS, ()),
        ([], ["kim@customer.com"], ("kim@customer.com",), ("Lee@Customer.com",)),
        (["staging@us.com"], ["us.com"], ("staging@us.com",), ()),
        # The allow-list applies last, to redirections too.
        (["staging@us.com"], ["customer.com"], (), CUSTOMERS),
        (["staging@us.com", "boss@elsewhere.com"], ["us.com"], ("staging@us.com",), ()),
    ],
)
def test_the_envelope(
    redirect_to: list[str], allowed: list[str], envelope: tuple[str, ...], withheld: tuple[str, ...]
) -> None:
    """Two customers; every combination of the two settings."""
    decided = plan(CUSTOMERS, redirect_to, allowed)

    assert decided.envelope == envelope
    assert decided.withheld == withheld
    assert decided.redirected == bool(redirect_to and envelope)
    assert decided.redirected_to == (", ".join(envelope) if redirect_to else "")
    assert decided.recipients == tuple(address for address in CUSTOMERS if address not in withheld)


@pytest.mark.parametrize(
    ("address", "rule", "fits"),
    [
        ("kim@example.com", "kim@example.com", True),
        ("Kim@Example.COM", "kim@example.com", True),
        ("kim@example.com", "KIM@EXAMPLE.COM", True),
        ("kim+tag@example.com", "kim@example.com", False),
        ("akim@example.com", "kim@example.com", False),
        ("kim@example.com", "example.com", True),
        ("kim@example.com", "Example.Com", True),
        ("kim@example.com", "@example.com", True),
        ("kim@example.com", " example.com ", True),
        ("kim@example.com", ".example.com", True),
        ("kim@mail.example.com", "example.com", False),
        ("kim@mail.example.com", ".example.com", True),
        ("kim@deep.mail.example.com", ".example.com", True),
        ("kim@evilexample.com", "example.com", False),
        ("kim@evilexample.com", ".example.com", False),
        ("kim@example.com.evil.org", ".example.com", False),
        ("kim@example.com.", "example.com", True),
        ("example.com@evil.org", "example.com", False),
        ('"kim@example.com"@evil.org', "example.com", False),
        ("kim@xn--bcher-kva.example", "bücher.example", True),
        ("kim@xn--bcher-kva.example", "BÜCHER.example", True),
        ("kim@xn--bcher-kva.example", "kim@bücher.example", True),
        ("kim@shop.xn--bcher-kva.example", ".bücher.example", True),
        ("kim@localhost", "localhost", True),
        ("kim@[127.0.0.1]", "[127.0.0.1]", True),
    ],
)
def test_whom_a_rule_lets_through(address: str, rule: str, fits: bool) -> None:
    """Addresses and domains, in any case and spelling; subdomains only with a leading dot."""
    assert plan((address,), (), [rule]).envelope == ((address,) if fits else ())


@pytest.mark.parametrize("rule", ["", " ", "@", ".", "a b", "*", "*.example.com x", "kim@", "a@b@c", None, 7])
def test_what_is_no_rule_is_refused(rule: Any) -> None:
    """It must not be treated as a rule for all recipients."""
    with pytest.raises(InvalidMail):
        recipient_rule(rule)
    with pytest.raises(ImproperlyConfigured, match="ALLOWED_RECIPIENTS"):
        sandbox.permissions([rule])


@pytest.mark.parametrize("given", ["staging@us.com", None, 7, {"staging@us.com": 1}])
def test_what_is_no_list_is_refused(given: Any) -> None:
    """A string would be split into letters."""
    with pytest.raises(ImproperlyConfigured, match="must be a list"):
        sandbox.redirections(given)
    with pytest.raises(ImproperlyConfigured, match="must be a list"):
        sandbox.permissions(given)


@pytest.mark.parametrize("given", ["", "us.com", "staging@", "a@us.com, b@us.com"])
def test_a_redirection_is_an_address(given: str) -> None:
    """Mail cannot be sent to a domain."""
    with pytest.raises(ImproperlyConfigured, match="REDIRECT_ALL_TO"):
        sandbox.redirections([given])


names = st.sampled_from(["kim", "Lee", "x.y"])
domains = st.sampled_from(["us.com", "US.com", "mail.us.com", "customer.com", "evilus.com", "xn--bcher-kva.example"])
addresses = st.builds("{}@{}".format, names, domains)
rules = st.one_of(addresses, domains, st.sampled_from([".us.com", "bücher.example"]))


@given(
    recipients=st.lists(addresses, unique=True).map(tuple),
    redirect_to=st.lists(addresses, max_size=2),
    allowed=st.lists(rules, max_size=3),
)
def test_no_recipient_evades_the_settings(
    recipients: tuple[str, ...], redirect_to: list[str], allowed: list[str]
) -> None:
    """With any settings, the envelope has only permitted recipients, and no recipient is unaccounted for."""
    decided = plan(recipients, redirect_to, allowed)

    if redirect_to:
        assert set(decided.envelope) <= set(redirect_to)
    else:
        assert set(decided.envelope) <= set(recipients)
    if allowed:
        # Differently from the code under test: each address separately, against each rule separately.
        for address in decided.envelope:
            assert any(plan((address,), (), [rule]).envelope for rule in allowed)
    assert set(decided.recipients) | set(decided.withheld) == set(recipients)
    assert not set(decided.recipients) & set(decided.withheld)
    assert bool(decided.envelope) == bool(decided.recipients)


def test_an_outcome_about_the_redirection_is_one_about_the_recipients() -> None:
    """The ledger contains only the recipients' addresses."""
    decided = plan(CUSTOMERS, ["a@us.com", "b@us.com"])
    refused = {"b@us.com": Reply(code=550)}

    taken = decided.of_recipients(Accepted(code=250, accepted=("a@us.com",), refused=refused))
    put_off = decided.of_recipients(Deferred(cause=Cause.PUT_OFF, reason="later", refused=refused))
    failed = decided.of_recipients(Failed(cause=Cause.REFUSED, code=550, reason="no", refused=refused))

    assert taken == Accepted(code=250, accepted=CUSTOMERS, refused={})
    assert put_off == Deferred(cause=Cause.PUT_OFF, reason="later")
    assert failed == Failed(cause=Cause.REFUSED, code=550, reason="no")
    for unchanged in (InDoubt(cause=Cause.IN_DOUBT, reason="?"), Skipped(reason="!")):
        assert decided.of_recipients(unchanged) is unchanged
    plain = Accepted(code=250, accepted=CUSTOMERS[:1], refused={CUSTOMERS[1]: Reply(code=550)})
    assert plan(CUSTOMERS).of_recipients(plain) is plain
