"""The cases for each server that supports them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from django.db import transaction

from tests.deliveries import submitted

from .run import (
    Case,
    certificate_authority,
    hold_connection,
    let_go,
    restart,
    resume,
    right_certificate,
    right_password,
    stop,
)
from .server import Kind, Options, Server

#: The recipient at whom a server closes the connection; each of these mails has five.
HUNG_UP_AT = "u2@example.com"

#: Mails in a period in seconds. A period of a minute makes the tests longer by as much.
RATE = (20, int(os.environ.get("SERVERS_PERIOD", "10")))


def each(number: int, **how: Any) -> Callable[[], list[str]]:
    """Return a function that submits ``number`` mails with one recipient each."""

    def submit() -> list[str]:
        with transaction.atomic():
            return [submitted(f"u{place}@example.com", **how).pk for place in range(number)]

    return submit


def one(number: int, **how: Any) -> Callable[[], list[str]]:
    """Return a function that submits one mail to ``number`` recipients."""
    return lambda: [submitted(*(f"u{place}@example.com" for place in range(number)), **how).pk]


def with_a_large_one() -> list[str]:
    """Submit five small mails, and one among them that is too large."""
    with transaction.atomic():
        made = [submitted(f"u{place}@example.com").pk for place in range(5)]
        made.insert(2, submitted("large@example.com", body="a line of words\n" * 20_000).pk)
    return made


# -- the cases ------------------------------------------------------------------------------------------------------

_OF_CERTIFICATES: dict[Kind, str] = {"wrong name": "is for another name than localhost", "expired": "has expired"}


def _all(server: type[Server]) -> list[Case]:
    cases = [
        *(
            Case(
                name=f"200 mails, restart {when}",
                submit=each(200),
                arrived=200,
                refused=20,
                amid=restart,
                after=60,
                by_another=by_another,
            )
            for when, by_another in (("between two mails", False), ("while mails are sent", True))
        ),
        Case(
            name="server down",
            submit=each(10),
            arrived=10,
            refused=1,
            before=stop,
            fix=resume,
            says=("Connection refused. No program listens",),
        ),
    ]
    for tls in ("STARTTLS", "TLS"):
        good = Options(certificate="good")
        cases += [
            Case(name=f"{tls}, own authority", options=good, tls=tls, submit=each(10), arrived=10),
            Case(
                name=f"{tls}, unknown authority",
                options=good,
                tls=tls,
                config={"ca_certificates": ""},
                submit=each(10),
                arrived=10,
                refused=1,
                fix=certificate_authority,
                says=("not signed by an authority that this machine trusts",),
            ),
            *(
                Case(
                    name=f"{tls}, {kind}",
                    options=Options(certificate=kind),
                    tls=tls,
                    submit=each(10),
                    arrived=10,
                    refused=1,
                    fix=right_certificate,
                    says=(words,),
                )
                for kind, words in _OF_CERTIFICATES.items()
            ),
            Case(
                name=f"{tls}, right login",
                options=Options(certificate="good", login=True),
                tls=tls,
                submit=each(10),
                arrived=10,
            ),
            Case(
                name=f"{tls}, wrong login",
                options=Options(certificate="good", login=True),
                tls=tls,
                config={"password": "wrong"},
                submit=each(10),
                arrived=10,
                refused=1,
                fix=right_password,
                says=("535", "does not accept the username and password"),
            ),
        ]
    return [
        *cases,
        Case(name="10 mails per session", options=Options(mails=10), submit=each(45), arrived=45),
        Case(
            name="1 connection per host",
            options=Options(connections=1),
            submit=each(10),
            arrived=10,
            # The server may still count a connection that was just closed.
            refused=3,
            pause=0.5,
            before=hold_connection,
            fix=let_go,
            says=("421", "The server limits the number of connections at a time"),
        ),
        Case(
            name="20 recipients per connection",
            options=Options(recipients_of_connection=20),
            submit=each(45),
            arrived=45,
        ),
        Case(
            name=f"{RATE[0]} mails in {RATE[1]} s",
            options=Options(rate=RATE),
            submit=each(60),
            arrived=60,
            refused=60,
            real=True,
        ),
        Case(
            name="greylisting",
            options=Options(greylist=1),
            submit=each(10),
            arrived=10,
            refused=10,
            pause=2.5,
            says=("Greylisted", "This is greylisting"),
        ),
        Case(name="25 recipients, 10 per mail", options=Options(recipients=10), submit=one(25), arrived=25, refused=2),
        Case(
            name="25 recipients, all refused",
            options=Options(recipients=10, refuses_all=True),
            submit=one(25),
            arrived=25,
            refused=2,
        ),
        Case(
            name="hangs up at one recipient",
            options=Options(hangs_up_at=HUNG_UP_AT),
            submit=one(5),
            arrived=4,
            # If the server sends no reply for this recipient, it is tried again, after the others.
            failed=0 if server.hangs_up_silently else 1,
            refused=8 if server.hangs_up_silently else 2,
            says=("The test email to u2@example.com was not sent",),
            test_to=HUNG_UP_AT,
        ),
        Case(
            name="a mail that is too large",
            options=Options(size=100_000),
            submit=with_a_large_one,
            arrived=5,
            failed=1,
            refused=1,
        ),
    ]


def cases_of(server: type[Server]) -> list[Case]:
    """Return the cases that use only options of this server."""
    usual = Options()
    names = [field.name for field in dataclasses.fields(Options)]
    return [
        case
        for case in _all(server)
        if not any(getattr(case.options, name) != getattr(usual, name) for name in names if name in server.unknown)
    ]
