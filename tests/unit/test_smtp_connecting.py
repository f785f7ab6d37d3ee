"""Connecting to a host with several addresses: their order, the time for each, and the reported error."""

from __future__ import annotations

import errno
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from email_integration.smtp import connecting
from email_integration.smtp.connecting import bare, connect, tls_name


def v4(number: int) -> Any:
    return socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"192.0.2.{number}", 25)


def v6(number: int) -> Any:
    return socket.AF_INET6, socket.SOCK_STREAM, 6, "", (f"2001:db8::{number}", 25, 0, 0)


class Network:
    """Addresses with a given behaviour, and a clock that only they advance.

    The behaviour None is a connection; a number gives the seconds until the connection. A ``TimeoutError`` is raised
    when the given time is over, any other exception at once.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *hosts: tuple[Any, Any], resolving: float = 0.0) -> None:
        self.now = 1000.0
        #: The addresses tried, with the seconds that each was given.
        self.tried: list[tuple[str, float]] = []
        self._hosts = {found[4][0]: behaviour for found, behaviour in hosts}

        def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
            self.asked = host
            self.now += resolving
            return [found for found, _ in hosts]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        monkeypatch.setattr(connecting, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(connecting, "_connected", self._connected)

    def _connected(self, found: Any, timeout: float) -> Any:
        address = found[4][0]
        self.tried.append((address, timeout))
        behaviour = self._hosts[address]
        if isinstance(behaviour, TimeoutError) or (isinstance(behaviour, float) and behaviour > timeout):
            self.now += timeout
            raise TimeoutError("timed out")
        if isinstance(behaviour, OSError):
            raise behaviour
        self.now += behaviour or 0.0
        return address


SILENT = TimeoutError()
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
NO_NETWORK = OSError(errno.ENETUNREACH, "Network is unreachable")
NO_ROUTE = OSError(errno.EHOSTUNREACH, "No route to host")
NOT_ALLOWED = PermissionError(errno.EPERM, "Operation not permitted")


def test_eight_silent_addresses_take_no_longer_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, *((v4(number), SILENT) for number in range(8)))
    with pytest.raises(TimeoutError):
        connect("smtp.example.com", 25, 10)
    assert len(network.tried) == 8
    assert [seconds for _, seconds in network.tried] == pytest.approx([1.25] * 8)
    assert network.now == pytest.approx(1010)


@pytest.mark.parametrize("alive", range(8))
@pytest.mark.parametrize("timeout", [0.9, 10.0, 300.0])
def test_the_address_that_answers_is_found_in_any_position(
    monkeypatch: pytest.MonkeyPatch, alive: int, timeout: float
) -> None:
    network = Network(monkeypatch, *((v4(number), None if number == alive else SILENT) for number in range(8)))
    assert str(connect("smtp.example.com", 25, timeout)) == f"192.0.2.{alive}"
    assert network.now < 1000 + timeout


def test_what_is_not_used_up_is_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, (v4(1), REFUSED), (v4(2), SILENT), (v4(3), 4.0))
    assert str(connect("smtp.example.com", 25, 10)) == "192.0.2.3"
    assert [seconds for _, seconds in network.tried] == pytest.approx([10 / 3, 5, 5])


def test_a_single_address_has_all_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, (v4(1), 9.5))
    assert str(connect("smtp.example.com", 25, 10)) == "192.0.2.1"
    assert network.tried == [("192.0.2.1", 10)]


def test_a_share_is_long_enough_for_a_connection_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """The total time stays limited: some addresses are then not tried."""
    network = Network(monkeypatch, *((v4(number), SILENT) for number in range(100)))
    with pytest.raises(TimeoutError):
        connect("smtp.example.com", 25, 1)
    assert all(seconds >= 0.1 for _, seconds in network.tried[:9])
    assert sum(seconds for _, seconds in network.tried) == pytest.approx(1)


def test_resolving_the_name_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, (v4(1), SILENT), (v4(2), SILENT), resolving=4)
    with pytest.raises(TimeoutError):
        connect("smtp.example.com", 25, 10)
    assert [seconds for _, seconds in network.tried] == pytest.approx([3, 3])
    late = Network(monkeypatch, (v4(1), None), resolving=11)
    with pytest.raises(TimeoutError):
        connect("smtp.example.com", 25, 10)
    assert late.tried == []


@pytest.mark.parametrize(
    ("found", "tried"),
    [
        ([v6(1), v6(2), v6(3), v4(1), v4(2)], [v6(1), v4(1), v6(2), v4(2), v6(3)]),
        ([v4(1), v4(2), v6(1)], [v4(1), v6(1), v4(2)]),
        ([v4(1), v4(1), v6(1), v4(1)], [v4(1), v6(1)]),
        ([v6(2), v6(1)], [v6(2), v6(1)]),
    ],
)
def test_the_families_have_their_turns(monkeypatch: pytest.MonkeyPatch, found: list[Any], tried: list[Any]) -> None:
    """RFC 8305 §4: a machine without working IPv6 reaches IPv4 with its second try."""
    network = Network(monkeypatch, *((address, SILENT) for address in found))
    with pytest.raises(TimeoutError):
        connect("smtp.example.com", 25, 10)
    assert [address for address, _ in network.tried] == [address[4][0] for address in tried]


@pytest.mark.parametrize(
    ("errors", "reported"),
    [
        ([NO_NETWORK, REFUSED], REFUSED),
        ([REFUSED, NO_NETWORK], REFUSED),
        ([SILENT, REFUSED], REFUSED),
        ([NO_NETWORK, SILENT, NO_ROUTE], SILENT),
        ([NO_NETWORK, NO_ROUTE], NO_ROUTE),
        ([NO_NETWORK, NOT_ALLOWED, SILENT], NOT_ALLOWED),
        ([NO_NETWORK, NO_NETWORK], NO_NETWORK),
    ],
)
def test_the_error_that_says_most_is_reported(
    monkeypatch: pytest.MonkeyPatch, errors: list[OSError], reported: OSError
) -> None:
    Network(monkeypatch, *((v4(number), error) for number, error in enumerate(errors)))
    with pytest.raises(type(reported)) as caught:
        connect("smtp.example.com", 25, 10)
    assert caught.value.errno == reported.errno


def test_a_name_without_addresses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    Network(monkeypatch)
    with pytest.raises(OSError, match="no IP address"):
        connect("smtp.example.com", 25, 10)


@pytest.mark.parametrize(
    ("host", "asked_for", "in_certificate"),
    [
        ("[::1]", "::1", "::1"),
        ("::1", "::1", "::1"),
        ("[IPv6:2001:db8::1]", "2001:db8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1%eth0", "fe80::1"),
        ("[192.0.2.1]", "192.0.2.1", "192.0.2.1"),
        ("smtp.example.com", "smtp.example.com", "smtp.example.com"),
        ("smtp.example.com.", "smtp.example.com.", "smtp.example.com"),
    ],
)
def test_brackets_belong_neither_to_the_address_nor_to_the_certificate(
    monkeypatch: pytest.MonkeyPatch, host: str, asked_for: str, in_certificate: str
) -> None:
    network = Network(monkeypatch, (v4(1), None))
    connect(host, 25, 10)
    assert network.asked == bare(host) == asked_for
    assert tls_name(host) == in_certificate
