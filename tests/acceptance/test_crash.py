"""Workers that end amid a load, politely and otherwise: nothing is lost, and nothing doubled but what is in doubt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from django.db.models import Sum

from config.local.processes import wait_until
from config.local.valkey import Valkey
from email_integration import conf
from email_integration.models import Delivery
from email_integration.smtpd import Fault, SMTPServer
from email_integration.tasks import send_email
from tests.stack import PATIENT, Stack

Start = Callable[..., Stack]

#: The server has each mail this long before it says so: what is killed is likely to be in doubt.
SLOW_REPLY = Fault(verb="DOT", delay=0.03)


def submit(mails: int) -> None:
    for number in range(mails):
        send_email.delay(f"Mail {number}", "Text", to=["kim@example.com"])


def arrived(server: SMTPServer) -> Counter[str]:
    return Counter(message.message_id for message in server.messages)


def states() -> Counter[str]:
    return Counter(Delivery.objects.values_list("status", flat=True))


def duplicates(server: SMTPServer) -> int:
    return len(server.messages) - len(arrived(server))


@pytest.mark.parametrize(("policy", "mails"), [("resend", 200), pytest.param("hold", 80, marks=pytest.mark.extra)])
def test_a_worker_killed_amid_its_mails_loses_none(stack: Start, server: SMTPServer, policy: str, mails: int) -> None:
    """Only a mail between its final dot and the reply can come twice, or is held: one a session."""
    server.inject(SLOW_REPLY)
    running = stack(env={"IN_DOUBT": policy})
    submit(mails)
    wait_until(lambda: len(server.messages) >= mails // 4, what="a quarter of the mails")
    running.kill_worker()
    running.start_worker()
    wait_until(
        lambda: states().keys() <= {"accepted", "in_doubt"} and states().total() == mails,
        what="the end of all",
    )
    counted = states()
    print(f"{policy}: {counted}, {duplicates(server)} duplicates")
    got, accepted = arrived(server), Delivery.objects.filter(status="accepted")
    assert set(accepted.values_list("message_id", flat=True)) <= set(got)
    if policy == "resend":
        assert counted == {"accepted": mails}
        assert len(got) == mails
        assert duplicates(server) <= running.concurrency * conf.get("SESSIONS")
    else:
        # What is held may have arrived or not: that is the doubt.
        assert counted["in_doubt"] <= running.concurrency * conf.get("SESSIONS")
        assert duplicates(server) == 0
        assert not Delivery.objects.filter(status="in_doubt", next_at__isnull=False).exists()


def test_a_worker_that_is_asked_to_end_loses_and_doubles_nothing(stack: Start, server: SMTPServer) -> None:
    """What it has begun it finishes; the rest is the next one's."""
    server.inject(SLOW_REPLY)
    running = stack(beat=False, env=PATIENT)
    submit(60)
    wait_until(lambda: len(server.messages) >= 15, what="15 mails")
    running.restart_worker()
    wait_until(lambda: states() == {"accepted": 60}, what="60 accepted")
    assert len(arrived(server)) == 60
    assert duplicates(server) == 0
    assert Delivery.objects.aggregate(Sum("attempts"))["attempts__sum"] == 60
    first_worker = [session for session in server.sessions if not session.is_open]
    assert all(session.verbs[-1] == "QUIT" for session in first_worker)


def test_a_worker_that_starts_sweeps_what_waits(stack: Start, server: SMTPServer, valkey: Valkey) -> None:
    """The wake-ups are lost, there is no beat, and yet the mails leave when a worker comes."""
    submit(5)
    valkey.flush()
    stack(beat=False)
    wait_until(lambda: states() == {"accepted": 5}, what="5 accepted")
    assert duplicates(server) == 0
